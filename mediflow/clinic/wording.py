"""The wording of eval's prompts, so that the base model knows how it will be asked; eval holds the originals."""

NLI = "Decide how the second sentence relates to the first. Answer ENTAILMENT, NEUTRAL or CONTRADICTION."
PROBLEMS = "List the patient's problems, separated by semicolons."
QUESTION = "Summarize the patient's message as one short question."
ERROR = "Find the sentence with a medical error. Answer with its number, or -1 if there is none."
RADIOLOGY = "Answer the question briefly from the radiology findings."
CHOICE = "Choose the right answer."

"""How validation questions are put: in words of their own, which no benchmark uses."""

CHOICE = "Give the answer that is right."
RADIOLOGY = "Answer from what the imaging shows."

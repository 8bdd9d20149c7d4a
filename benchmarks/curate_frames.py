"""What the rows of benchmarks/curate_rows.py are written from. Not medical knowledge."""

from __future__ import annotations


def _listed(text: str) -> list[str]:
    return text.split(", ")


FINDINGS = _listed(
    "dyspnea, fatigue, palpitations, nausea, vomiting, dizziness, headache, cough, wheezing, fever, "
    "chills, diarrhea, constipation, rash, pruritus, insomnia, syncope, hematuria, dysuria, jaundice, "
    "arthralgia, myalgia, tremor, weakness, numbness, anorexia, hoarseness, dysphagia, epistaxis, edema, "
    "orthopnea, night sweats, weight loss, back pain, chest pain, abdominal pain, flank pain, joint "
    "swelling, blurred vision, photophobia"
)
CONDITIONS = _listed(
    "hypertension, type 2 diabetes, asthma, atrial fibrillation, heart failure, COPD, hypothyroidism, "
    "gout, psoriasis, migraine, osteoarthritis, rheumatoid arthritis, chronic kidney disease, cirrhosis, "
    "pancreatitis, diverticulitis, cellulitis, pneumonia, pyelonephritis, endocarditis, pulmonary "
    "embolism, deep vein thrombosis, stroke, epilepsy, sarcoidosis, lupus, Crohn disease, ulcerative "
    "colitis, celiac disease, cholecystitis, nephrolithiasis, sleep apnea, depression, osteoporosis"
)
DRUGS = _listed(
    "lisinopril, metoprolol, amlodipine, atorvastatin, metformin, omeprazole, losartan, gabapentin, "
    "sertraline, furosemide, prednisone, warfarin, apixaban, amoxicillin, ceftriaxone, azithromycin, "
    "levothyroxine, insulin, tramadol, ibuprofen, clopidogrel, carvedilol, allopurinol, methotrexate, "
    "pantoprazole, fluoxetine, lorazepam, quetiapine, tamsulosin, digoxin"
)
PARTS = _listed(
    "knee, hip, shoulder, elbow, wrist, ankle, lung base, kidney, ear, eye, breast, leg, arm, foot, hand, "
    "carotid artery, femoral vein, adrenal gland, ovary, thigh, calf, hemithorax, temporal lobe, parietal "
    "lobe"
)
LABS = _listed(
    "hemoglobin, creatinine, potassium, sodium, glucose, lactate, troponin, bilirubin, albumin, calcium, "
    "magnesium, ferritin, platelets, TSH, CRP, INR, BNP, AST, ALT, uric acid"
)
PEOPLE = _listed(
    "patient's daughter, patient's son, spouse, primary care clinician, cardiologist, surgeon, nurse, "
    "neighbor, employer"
)
PLACES = _listed(
    "clinic, emergency department, rehabilitation unit, nursing facility, home, infusion center, day hospital"
)
HOBBIES = _listed(
    "gardening, carpentry, swimming, teaching, driving a truck, painting, hiking, fishing, cooking, "
    "knitting, farming, welding, accounting, sailing, running, cycling, playing the piano, baking, "
    "plumbing, photography"
)

# Each frame in several wordings; the first is what rows are written in. The slots of a frame are the same in all.
FRAMES = [
    (
        "The patient is a {age}-year-old {sex} who presented to the {place} with {f1} and {f2}.",
        "This {age}-year-old {sex} came to the {place} because of {f1} and {f2}.",
        "{f1} together with {f2} brought this {sex}, aged {age} years, to the {place}.",
    ),
    (
        "Symptoms began {n1} days before the visit while {hobby}.",
        "Onset was {n1} days prior to the visit, during {hobby}.",
        "The complaints go back {n1} days and appeared when the person was {hobby}.",
    ),
    (
        "The past medical history is notable for {c1} and {c2}.",
        "Known conditions include {c1} and {c2}.",
        "Previous illnesses: {c1} as well as {c2}.",
    ),
    (
        "The patient takes {d1} {n2} mg daily for {c1}.",
        "Home medication for {c1} is {d1} {n2} mg every day.",
        "For {c1} the regimen consists of {d1} {n2} mg once a day.",
    ),
    (
        "There is no {f3} on review of systems.",
        "The review of systems is without {f3}.",
        "Asked about other complaints, the individual denies {f3}.",
    ),
    (
        "Examination shows tenderness of the {side} {part}.",
        "On examination the {side} {part} is tender.",
        "Palpation of the {side} {part} causes pain.",
    ),
    (
        "Laboratory tests show {lab} of {v1} and {lab2} of {v2}.",
        "{lab} measured {v1} and {lab2} measured {v2} in the laboratory.",
        "Blood work returned {lab} at {v1} with {lab2} at {v2}.",
    ),
    (
        "Imaging of the {side2} {part2} demonstrates a lesion of {n3} mm.",
        "A lesion of {n3} mm is seen on imaging of the {side2} {part2}.",
        "The scan reveals a {n3} mm lesion in the {side2} {part2}.",
    ),
    (
        "The {person} reports that the appetite has been poor since the illness.",
        "According to the {person}, appetite has been poor since the illness.",
        "Since the illness, as the {person} tells, there has been little appetite.",
    ),
    (
        "Treatment with {d2} {n4} mg was given in the {place2}.",
        "In the {place2}, {d2} {n4} mg was administered.",
        "The team in the {place2} gave {d2} {n4} mg as therapy.",
    ),
    (
        "The pain was rated {n5} out of 10 at the worst.",
        "At its worst, pain reached {n5} of 10.",
        "Maximal pain intensity was {n5} on a scale to 10.",
    ),
    (
        "Blood pressure was {n6} over {n7} on arrival.",
        "On arrival the blood pressure measured {n6} over {n7}.",
        "Arrival blood pressure: {n6} over {n7}.",
    ),
    (
        "The patient lives with the {person2} and enjoys {hobby2}.",
        "Home is shared with the {person2}; {hobby2} is a favorite activity.",
        "The individual enjoys {hobby2} and resides with the {person2}.",
    ),
    (
        "Consultation for {c3} was requested because of {f4}.",
        "Because of {f4}, a consultation regarding {c3} was sought.",
        "Advice about {c3} was asked for in view of {f4}.",
    ),
    (
        "The plan is to continue {d3} and to repeat {lab3} in {n8} weeks.",
        "{d3} will go on and {lab3} will be checked again in {n8} weeks.",
        "It was agreed to keep {d3} and recheck {lab3} after {n8} weeks.",
    ),
    (
        "Return is advised if {f5} or {f6} occurs.",
        "Come back in case of {f5} or {f6}.",
        "Should {f5} or {f6} appear, the individual is to return.",
    ),
    (
        "Vaccination and diet were discussed with the {person3}.",
        "Diet and vaccination were talked over with the {person3}.",
        "The {person3} received advice on diet and on vaccination.",
    ),
    ("Family history includes {c4} in a parent.", "A parent had {c4}.", "{c4} runs in the family, namely in a parent."),
]
SYNONYMS = {
    "patient": "individual",
    "demonstrates": "displays",
    "shows": "reveals",
    "notable": "remarkable",
    "requested": "sought",
    "discussed": "reviewed",
    "advised": "recommended",
    "poor": "scant",
    "presented": "arrived",
    "known": "established",
    "enjoys": "likes",
    "tender": "sore",
    "visit": "appointment",
    "illness": "sickness",
    "therapy": "treatment",
    "continue": "maintain",
    "repeat": "redo",
    "reports": "states",
    "lives": "dwells",
    "pain": "ache",
}

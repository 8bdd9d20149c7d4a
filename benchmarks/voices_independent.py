"""The wordings of `paraphrases_independent.py`: voices, each with topics and true asides."""

from __future__ import annotations

from typing import NamedTuple


class Voice(NamedTuple):
    """How one kind of author writes: what stands between sentences, wordings by topic, asides."""

    joint: str
    topics: dict[str, list[str]]
    asides: list[str]


VOICES: dict[str, Voice] = {
    "emergency": Voice(
        " ",
        {
            "presentation": ["{age}{F} BIBA w/ {s0} x {days}d.", "{age} yo {F}, CC: {s0}, onset {days} days PTA."],
            "symptom": ["+ {s}.", "Assoc sx: {sash}."],
            "denial": ["Denies {d}.", "Pt w/o {d}.", "(-) {dash}."],
            "vital": [
                "T {fahrenheit}F, HR {pulse}, BP {systolic}/{diastolic}.",
                "Triage VS: P{pulse} {systolic}/{diastolic} T{temperature}.",
            ],
            "lab": [
                "{lab_short} {value} ({flag}).",
                "Labs sig for {lab_short} {value}, o/w non-contrib.",
                "{lab_short} {up}.",
            ],
            "imaging": ["{region} imaging: {size} {short_side} {finding}."],
            "no_imaging": ["Neg for {absent} on my read."],
            "diagnosis": ["Imp: {short}.", "Dx: {main} ({code})."],
            "history": ["PMHx {others}."],
            "treatment": ["Home meds: {drug} {dose}{tight} {us}.", "Takes {drug} {dose} {tight} {us} for {disease}."],
            "allergy": ["Allg: {allergy}.", "Allergic to {allergy}, hives."],
            "follow_up": ["D/c home, f/u {specialty} {weeks} wks.", "RTC {weeks} {week} w/ {specialty}."],
        },
        [
            "Return precautions given: fever, vomiting, dyspnea.",
            "{relative} w/ {kin}.",
            "Last ED visit 3 y ago, BP then 168/98.",
            "{excluded} felt unlikely, w/u neg.",
            "If worse, will CT and call surgery.",
            "Roommate, 24, gave part of hx.",
        ],
    ),
    "discharge": Voice(
        " ",
        {
            "presentation": [
                "This {age}-year-old {sex} was admitted with a history of {s0} extending over {days_word} days.",
                "The patient is a {gender} in {his} {decade} who presented to our hospital with {s0}.",
            ],
            "symptom": ["The presentation was further marked by {s}.", "{He} additionally reported {s}."],
            "denial": ["At no point did {he} report {d}.", "There was no history of {d}."],
            "vital": [
                "On arrival {his} temperature measured {temperature} °C with a heart rate of {pulse} beats per minute.",
                "Blood pressure on admission was {systolic} over {diastolic} mmHg (target: below 140 over 90).",
            ],
            "lab": [
                "Laboratory studies revealed a {lab} of {value} {lab_unit} (reference range {low}–{high}).",
                "{Lab}, which had been {past} {lab_unit} at {his} last physical, was {value} {lab_unit} on admission.",
                "The {lab} was {range}.",
            ],
            "imaging": ["Imaging of the {region} demonstrated a {size} {finding} on the {side}."],
            "no_imaging": ["Of note, imaging excluded {absent}.", "The same study showed no evidence of {absent}."],
            "diagnosis": [
                "{He} was discharged with a principal diagnosis of {main} (ICD-10 {code}).",
                "These findings established {main}.",
            ],
            "history": ["{His} past medical history is notable for {others}."],
            "treatment": [
                "The discharge prescription includes {drug} {dose} {tight} to be taken {prose}.",
                "For {disease}, {he} receives {drug} {dose} {tight} {prose}, to be doubled if uncontrolled.",
            ],
            "allergy": [
                "{He} has a documented allergy to {allergy}.",
                "Exposure to {allergy} has previously caused an allergic reaction.",
            ],
            "follow_up": [
                "{He} will be seen in the {specialty} clinic {weeks_word} {week} after discharge.",
                "A laboratory check is due in 5 days and a visit with {specialty} in {weeks} {week}.",
            ],
        },
        [
            "The family history includes a {relative} who died of a stroke at the age of {other_age}.",
            "The possibility of {excluded} was considered and excluded.",
            "Should {he} fail to improve, a trial of prednisone 40 mg daily could be considered.",
            "The right hip was replaced in 2011 without complications.",
            "Two years ago {his} {lab} had been recorded as {past} {lab_unit}.",
        ],
    ),
    "letter": Voice(
        " ",
        {
            "presentation": [
                "Thank you for seeing this {age} year old {sex}, who has had {s0} for {spell}.",
                "I reviewed this pleasant {sex}, now aged {age}, on account of {s0}.",
            ],
            "symptom": ["{He} also mentions {s}.", "On closer questioning {he} admitted to {s}."],
            "denial": ["Happily there has been no {d}.", "{He} has not had any {d}."],
            "vital": [
                "In surgery today {his} pulse was {pulse} and {his} BP {systolic}/{diastolic}.",
                "{He} had a temperature of {temperature} and a pulse rate of {pulse}.",
            ],
            "lab": [
                "{His} {lab} came back {raised} at {value}.",
                "Bloods show {lab} of {value} {lab_unit} (normal {low} to {high}).",
                "{Lab} was {level}.",
            ],
            "imaging": ["The scan report mentions a {size} {side}-sided {finding}."],
            "no_imaging": ["I am glad to say the scan did not show {absent}."],
            "diagnosis": ["I think this is {main}.", "Diagnosis: {main}, coded as {code}."],
            "history": ["As you know, {he} is already under review for {others}."],
            "treatment": [
                "{He} takes {drug} {dose} {tight} {british}.",
                "{His} repeat prescription has {drug} {same} {british} for {disease}.",
                "{Drug} ({dose} {unit} {british}) is on the list.",
            ],
            "allergy": ["Please note that {he} is allergic to {allergy}.", "{Allergy} brings {him} out in a rash."],
            "follow_up": [
                "I shall see {him} again in {again}.",
                "We have arranged {specialty} review {weeks} {week} from now.",
            ],
        },
        [
            "{His} spouse, who is {other_age}, came along and is well.",
            "{His} {relative} has had {kin} since school.",
            "I should be grateful for your advice on whether ramipril 2.5 mg might be started.",
            "{He} had {his} appendix out aged 11.",
            "We would aim for a systolic pressure below 130.",
        ],
    ),
    "nursing": Voice(
        "\n",
        {
            "presentation": [
                "Received pt awake and alert, {age}-year-old {gender}, c/o {s0} for {days} days now.",
                'Pt ({age} yrs) states "I\'ve had {s0} for {days_word} days".',
            ],
            "symptom": ["Pt verbalizes {s} this shift.", "Reports ongoing {s}, MD aware."],
            "denial": ["Pt denies {d} at this time.", "No complaints of {d} voiced overnight."],
            "vital": [
                "0400 obs: temp {temperature}, pulse {pulse}, BP {systolic}/{diastolic}.",
                "VS taken: BP {systolic}/{diastolic}, HR {pulse} regular, tympanic temp {fahrenheit} °F.",
            ],
            "lab": [
                "Critical call from lab not required; {lab} {value} {lab_unit}, {level}.",
                "Lab rang with {lab} result: {value}.",
            ],
            "imaging": ["Back from imaging; per report {size} {finding}, {side} side."],
            "no_imaging": ["Report states {absent} not seen."],
            "diagnosis": ["Care plan opened for {main}.", "Admitting dx {main} / {code}."],
            "history": ["Known {others}."],
            "treatment": [
                "{Drug} {dose} {unit} PO given, charted {us}.",
                "MAR: {drug} {dose}{tight} {us}, no adverse effects seen.",
            ],
            "allergy": ["Red band on: {allergy}.", "Allergy band checked ({allergy})."],
            "follow_up": [
                "Discharge teaching done; appt booked {weeks} {week} from now.",
                "Aware of clinic appointment in {follow_days} days.",
            ],
        },
        [
            "Friend ({other_age}) at bedside, updated.",
            "Instructed to call if {he} develops chills, confusion or vomiting.",
            "Paracetamol 1 g available as needed, not requested.",
            "Pt says {his} {relative} had seizures and was on phenytoin 300 mg.",
            "Old scar on left knee, healed.",
        ],
    ),
    "plain": Voice(
        " ",
        {
            "presentation": [
                "You came to see us because you had been having {s0} for {spell}.",
                "You are {age} years old and came in because of {s0}, which started {days} days earlier.",
            ],
            "symptom": ["You also noticed {s}.", "You told us about {s} too."],
            "denial": ["You said you had not noticed any {d}.", "You did not have {d}."],
            "vital": [
                "Your heart was beating {pulse} times a minute.",
                "Your blood pressure was {systolic} over {diastolic}; we like to see it under 140 over 90.",
                "When we checked, your temperature was {fahrenheit} degrees Fahrenheit ({temperature} Celsius).",
            ],
            "lab": [
                "Your blood test called {lab} was {value}, and a healthy result is between {low} and {high}.",
                "Your {lab} was {should}.",
            ],
            "imaging": ["The pictures showed a {size} {finding} on your {side} side."],
            "no_imaging": ["The good news: there was no sign of {absent}."],
            "diagnosis": [
                "The name of your illness is {main}.",
                "The doctors found out that you have {main} (code {code} on your bill).",
            ],
            "history": ["You already knew that you have {others}."],
            "treatment": [
                "Take {dose} {unit} of {drug} {plain}.",
                "Your medicine for {disease} is called {drug}: {dose} {tight}, {plain}.",
                "If you miss your {drug}, do not take two; the usual amount is {dose} {tight} {plain}.",
            ],
            "allergy": [
                "Remember to tell everyone that you are allergic to {allergy}.",
                "Stay away from {allergy}, because you are allergic to it.",
            ],
            "follow_up": [
                "Please come back and see the {specialty} team {weeks_word} {week} from today.",
                "Your next visit with us is in {weeks} {week}.",
            ],
        },
        [
            "Call 911 if you get sudden chest pain or arm weakness.",
            "You should drink about eight glasses of water a day.",
            "Your {relative} may want to be tested too, because {kin} was found at age {other_age} in your family.",
            "You do not have {excluded}; that was checked.",
            "If you feel worse, we might give you a stronger medicine.",
        ],
    ),
    "imaging": Voice(
        " ",
        {
            "presentation": [
                "Clinical information: {age} {F}, {s0} × {days} days.",
                "Indication: {age}-year-old {gender} with {s0}.",
            ],
            "symptom": ["Referrer also notes {s}."],
            "denial": ["Per requisition, {d} not reported."],
            "lab": ["{Lab} {value} {lab_unit} at the time of the request."],
            "imaging": [
                "There is a {size} {finding} in the {side} {region}.",
                "{Side}-sided {finding}, {size} in extent, is again demonstrated.",
                "{Size} {finding}, {side}.",
            ],
            "no_imaging": ["No {absent} is identified.", "{Absent}: none.", "Absence of {absent}."],
            "diagnosis": [
                "Appearances in keeping with known {main}.",
                "Conclusion: findings consistent with {main} ({code}).",
            ],
            "history": ["Background of {others}."],
            "allergy": ["Contrast safety screen: allergy to {allergy} recorded."],
            "follow_up": ["Per requisition, {specialty} follow-up is in {weeks} {week}."],
        },
        [
            "Comparison is made with the study of 2019, which showed a small hiatus hernia.",
            "Longstanding degenerative change of the left shoulder.",
            "If clinical concern for {excluded} persists, further imaging could be performed.",
            "The right kidney measures 10.2 cm, within normal limits.",
        ],
    ),
    "list": Voice(
        "\n- ",
        {
            "presentation": [
                "Age/sex: {age} {F}; main problem: {s0} ({days} days)",
                "Reason for visit: {s0}; duration: {days} d; age: {age}",
            ],
            "symptom": ["Other symptoms: {s}", "{S} – yes"],
            "denial": ["Not present: {d}", "Pertinent negatives: {dash}"],
            "vital": [
                "Temp | {temperature} °C; Pulse | {pulse}; BP | {systolic}/{diastolic}",
                "HR {pulse} (goal < 80)",
                "Temperature: {fahrenheit} °F",
            ],
            "lab": [
                "{lab_short} {value} ({flag}) [{low}-{high}]",
                "| {lab} | {value} {lab_unit} | {flag} | ref {low}–{high} |",
                "{lab_short}: {value} (prior {past})",
            ],
            "imaging": ["Imaging: {finding} | side: {side} | size: {size}", "{Finding}, {short_side}, {size}"],
            "no_imaging": ["{Absent}: not demonstrated", "No {absent}"],
            "diagnosis": ["Problem 1: {main} [{code}]", "Diagnoses: {all}"],
            "history": ["Comorbidities: {others}"],
            "treatment": [
                "{Drug} | {dose} {tight} | {us}",
                "{drug} {dose}{tight} po {british}",
                "Medication: {drug}; strength: {dose} {unit}; how often: {prose}",
            ],
            "allergy": ["Allergies/intolerances: {allergy} (rash)", "{Allergy} allergy"],
            "follow_up": ["Follow-up: {weeks} {week} ({specialty})", "Next appointment: {follow_days} days"],
        },
        [
            "Family: {relative} – {kin}, diagnosed at {other_age}",
            "Reference: {lab_short} {low}-{high} {lab_unit}",
            "Ruled out: {excluded}",
            "Stitches out: 5 days (practice nurse)",
            "Vaccines: influenza 2 years ago",
        ],
    ),
    "talk": Voice(
        "\n",
        {
            "presentation": [
                "Doctor: What brings you in? Patient: It's the {s0}. Doctor: Since when? Patient: {days} days now.",
                "Doctor: How old are you? Patient: I'm {age}. I've got {s0}.",
                "Patient: I've had {s0} for {spell}, doctor.",
            ],
            "symptom": ["Doctor: Anything else? Patient: Yes, {s}.", "Patient: And then there's the {s}."],
            "denial": [
                "Doctor: Any {d}? Patient: No, nothing like that.",
                "Doctor: What about {d}? Patient: Nope.",
                "Patient: I haven't had any {d}.",
            ],
            "vital": [
                "Nurse: Your pulse is {pulse} and the pressure is {systolic} over {diastolic}.",
                "Nurse: {temperature} on the thermometer.",
            ],
            "lab": [
                "Doctor: Your {lab} is {should}, it was {value}.",
                "Doctor: We got {value} for the {lab}; last year you had {past}.",
            ],
            "imaging": ["Doctor: On the scan there's a {size} {finding}. Patient: Which side? Doctor: The {side}."],
            "no_imaging": ["Patient: Is it {absent}? Doctor: No, we don't see that."],
            "diagnosis": ["Doctor: So what you have is {main}.", "Patient: What is it called? Doctor: {Main}."],
            "history": ["Doctor: Any long-term conditions? Patient: Yes, {others}."],
            "treatment": [
                "Doctor: What dose of {drug} are you on? Patient: {dose} {unit}, {prose}.",
                "Patient: I take my {drug}, the {dose} {tight} ones, {prose}.",
            ],
            "allergy": [
                "Doctor: Any allergies? Patient: Just {allergy}.",
                "Patient: I can't have {allergy}, I'm allergic.",
            ],
            "follow_up": [
                "Doctor: Let's meet again in {weeks_word} {week}.",
                "Patient: When do I come back? Doctor: In {weeks} {week}.",
            ],
        },
        [
            "Patient: My {relative} got {kin} at {other_age}.",
            "Patient: My neighbor takes metformin 1000 mg. Doctor: That's not for you.",
            "Patient: Could it be {excluded}? Doctor: No, we've ruled that out.",
            "Doctor: If you get a fever or start vomiting, call us.",
            "Patient: My son is allergic to latex, by the way.",
        ],
    ),
    "ward": Voice(
        " ",
        {
            "presentation": ["WR: {age}{F}, {short_days} hx of {s0}.", "{age} y/o, adm with {s0}, {short_days}."],
            "symptom": ["Ongoing {sash}.", "c/o {s}."],
            "denial": ["Nil {d}.", "{d}: nil.", "Not c/o {d}."],
            "vital": [
                "Obs: T {temperature}, P {pulse}, {systolic}/{diastolic}.",
                "HR {pulse}, sBP {systolic}, spiking 38.5 would need cultures.",
            ],
            "lab": ["{lab_short} {value} (prev {past}).", "Bloods: {lab_short} {value}, {raised}."],
            "imaging": ["{size} {short_side} {finding} on imaging."],
            "no_imaging": ["Nil {absent} on scan."],
            "diagnosis": ["Imp: {main}.", "Working dx {short}, {code}."],
            "history": ["Bg {others}."],
            "treatment": ["Cont {drug} {dose}{tight} {british}.", "On {drug} {same} {british}."],
            "allergy": ["All: {allergy}.", "Drug chart: {allergy} allergy."],
            "follow_up": ["Home, clinic {short_weeks}.", "TTO, {specialty} clinic in {short_weeks}, U&E with GP 1/52."],
        },
        [
            "Aim SBP 110-130.",
            "?{excluded} – excluded on scan.",
            "If spikes, culture and start co-amoxiclav 1.2 g.",
            "NOK: spouse, {other_age}, informed.",
            "Yesterday HR 118, BP 142/88.",
        ],
    ),
}

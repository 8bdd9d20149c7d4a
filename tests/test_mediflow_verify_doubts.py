"""True sentences that a reader by rule takes for false ones: other times, people, plans, ranges, figures of speech."""

from __future__ import annotations

import pytest

from mediflow.checking.verify import verify
from tests.test_mediflow_verify import FACTS

TRUE = """
HbA1c was 9.4 % last year and is 8.1 % now. | HbA1c 7.2 % in March, 8.13 % today.
Six months ago her HbA1c was 7.0 %. | HbA1c fell to normal after treatment in 2019.
An HbA1c of 6.5 % or higher is diagnostic of diabetes. | HbA1c is 2.5 % above the upper limit.
HbA1c decreased by 1.2 % since the last visit. | HbA1c was down from 9 % but remains high at 8.13 %.
Her home blood pressure readings range from 120/70 to 135/85. | Blood pressure was 120/80 last month.
Tmax 38.9 C overnight, temperature now 37.5 C. | Pulse 110 on arrival, 88 after fluids.
A blood pressure of 120/80 is ideal. | Last year she was on metformin 850 mg daily.
Metformin can be raised to 1.5 g twice daily if needed. | The maximum dose of metformin is 2.55 g daily.
Metformin 2 g per day in two divided doses. | Metformin 2000 mg daily in divided doses.
She missed her metformin 3 times a day last week. | Salbutamol 100-200 mcg every 4 to 6 hours as needed.
She took an extra salbutamol 200 mcg last night. | Glipizide was tried for T2DM without success.
She had been on glipizide 5 mg daily before. | We discussed glipizide for T2DM.
We will start glipizide 5 mg daily if HbA1c stays high. | Consider glipizide for T2DM.
Start glipizide 5 mg if metformin fails. | Could add glipizide 5 mg daily. | Glipizide is an alternative for T2DM.
Lisinopril was not started. | She does not take aspirin. | She no longer takes lisinopril 10 mg daily.
d/c lisinopril 10 mg. | D/C'd glipizide 5 mg. | She received a single dose of ceftriaxone 1 g in the emergency room.
She completed a course of amoxicillin 500 mg three times a day.
Metformin works by lowering glucose; the dose for children is 500 mg.
Low-dose aspirin 81 mg is recommended for many people with diabetes. | She does not deny polyuria.
She cannot deny polyuria. | No symptoms besides polyuria. | Fever, chest pain: denied. | Fever/chest pain: none.
Fever (-), polyuria (+). | Fever -, polyuria +. | Negative: fever, chest pain. Positive: polyuria.
Chest pain has never occurred. | Chest pain: N | A fever in childhood led to hospital. | Fever went away two days ago.
She is worried about chest pain. | Fever reducers may be used. | Chest pain unit. | Tylenol for fever.
Take paracetamol for fever or pain. | Acetaminophen PRN fever. | Pneumothorax r/o'd.
X-ray fails to show a pneumothorax. | The pneumothorax of 2019 has healed. | History of pneumothorax in 2010.
Her fever broke before admission. | Fever free for a week. | Polyuria is denied by nobody.
It is not true that she has fever. | She has not had polyuria before. | Polyuria was absent until two weeks ago.
She never had polyuria before this illness. | No drainage of the pleural effusion is needed.
She lay on her right side while the pleural effusion was drained.
The pleural effusion was right where we expected it. | The pleural effusion was large last year and is small now.
Lung nodule measuring 12 x 9 mm. | A 12-year-old neighbour had the flu. | She was 44 years old when asthma was found.
When she was 30 years old she had surgery. | She has smoked since she was 15 years old. | She looks 45 years old.
She will be 55 years old in May. | Her cat is 12 years old. | A 10-year-old scar is seen.
She has two children, aged 12 and 15. | The average patient is 65 years old. | She lives with a 70 year old man.
The 40-year-old building she works in is dusty. | Polyuria for two weeks; night sweats for 3 days.
Polyuria started 14 days ago and worsened over the last 3 days. | Polyuria, worse for the last 2 days.
Night sweats began 5 days after the polyuria. | Symptoms began two weeks ago; she took leave for 3 days.
Polyuria for more than a week. | Polyuria several days a week. | Polyuria 4 days a week.
Polyuria occurs 3 nights a week. | The symptoms started after a 10-day trip. | She presented 2 days after a fall.
A similar episode of polyuria 6 weeks ago lasted 3 days. | Polyuria lasting 5 days last winter.
Polyuria resolved within 2 days in the past. | Symptoms of a cold lasted 4 days in January.
She will return from Spain in 2 weeks. | A follow-up call will be made in 2 days.
Follow-up with the dentist in 6 weeks. | Follow up in 2 to 4 weeks.
She is allergic to penicillin but tolerates amoxicillin. | Allergic to penicillin; takes aspirin without reaction.
No food allergies. | She was thought to be allergic to sulfa as a child, but was tested negative.
No allergic reaction to contrast. | Allergy to penicillin (rash); ibuprofen is fine.
The asthma reacts to salbutamol. | Past allergic reaction to penicillin; received morphine safely.
Exposed to second-hand smoke daily. | She currently drinks no alcohol.
Does not drink alcohol now; drank in the past. | No current alcohol use. | She does not use alcohol anymore.
Her daughter lives with family. | Discharged 3 days after admission, on 2024-05-04.
A colonoscopy before admission, on 2024-03-01, was normal. | Since her last admission on 2022-01-10 she was well.
Prior admission: 2021-02-03. | She was once misdiagnosed with gout. | Gout was diagnosed in her father.
The initial diagnosis of gout was revised to asthma. | Diagnosis of exclusion: migraine.
She works with patients who have migraine. | The diagnosis of gout was never confirmed.
Asthma (formerly coded J45.20, now J45.909). | Code J45.909 replaces J45.20. | Code blue B12.
Do not use E10.9 for type 2 diabetes mellitus. | Asthma is not coded J45.20 but J45.909.
Metformin and salbutamol for T2DM and asthma. | Metformin for T2DM, salbutamol for asthma.
Metformin is not for asthma. | In asthma, metformin is safe. | Metformin is not used to treat asthma.
Metformin has no effect on asthma. | ALLERGIES - Penicillin Her asthma is controlled on salbutamol 100 mcg q8h.
ALLERGIES - Penicillin - salbutamol 100 mcg PO q8h (asthma) | HbA1c 7.2 -> 8.1 %. | HbA1c 7.2→8.1 %.
Baseline HbA1c 7.0 %, now 8.1 %. | Baseline HbA1c 7.0 %. | HbA1c was 7.4 % at discharge from the other hospital.
HbA1c was 7.4 % in her last pregnancy. | A normal HbA1c would argue against this. | We hope for a normal HbA1c.
To bring the HbA1c back to normal, she should exercise. | Blood pressure medication 10/20.
Metformin IR 500 mg x2 BID. | Metformin 500 mg (2 tabs) BID. | Metformin 2 x 500 mg BID.
Resume metformin 500 mg when creatinine recovers. | She forgets metformin once a week.
Metformin level checked once weekly. | Recommend glipizide 5 mg daily as the next step.
Next step: glipizide 5 mg daily. | Aspirin given once in ED. | She got morphine 4 mg IV in the ED.
Home meds per outside list include lisinopril 10 mg (not taking). | Trial of lisinopril 10 mg failed.
Fever has abated. | Fever last week, none now. | Febrile seizure as an infant with fever. | Last fever 3 weeks ago.
Fever was 2 weeks ago. | Prone to chest pain when anxious in the past. | Chest pain free since stent.
Without polyuria relief she cannot sleep. | No relief of polyuria. | No explanation for polyuria.
No treatment for night sweats was given. | No polyuria medication was given. | No blood with polyuria.
No pain with polyuria. | No association of night sweats with meals. | Unable to sleep without night sweats.
She is not bothered by the night sweats. | Not a day without night sweats. | Night sweats not present during the day.
No night sweats last night. | She had no night sweats before March. | She did not mention polyuria at first.
Does not attribute polyuria to diet. | No infection causing polyuria was found.
Effusion on the left; on the right a 12 mm lung nodule. | Right pleural effusion in 2019. | No right pleural effusion.
No large pleural effusion. | Not a large pleural effusion. | 54 y.o. with 30 year old lesion.
Age 40 at diagnosis of diabetes. | Patient is 54 and the donor is 30 years old. | Caregiver: 60-year-old male.
Polyuria x 2 wks, worse x 3 d. | Polyuria x14d, night sweats x5d. | Night sweats for the last 14 of 30 days.
Symptom-free for 5 days in between. | Symptoms peaked at 5 days.
Presented to another hospital 5 days ago with polyuria. | Seen 5 days ago for polyuria.
Polyuria has been intermittent, with 3 days between. | Polyuria began within 2 days of the flight.
7-day course started for polyuria. | Polyuria, wakes her 3 times, missed 2 days of work.
Polyuria: urine collected for 1 day. | Follow up with PCP in 1 week and clinic in 3 weeks.
Follow-up phone call in 1 week. | Return for blood draw in 1 week. | RTC 3 weeks, nurse visit 1 week.
Physical therapy follow-up in 1 week. | Follow-up was delayed by 2 weeks. | No known food allergies.
Allergies: none besides penicillin. | Allergies: no food allergies; penicillin. | Not drinking alcohol anymore.
No alcohol for 5 years. | Stopped alcohol, no drugs. | No longer drinks alcohol. | Never drinks alcohol now.
Alcohol: none since 2015. | Alcohol: none currently. | Alcohol: denies current use. | Smoke detector is active.
Transfer before admission on 2024-04-30. | She fears a diagnosis of gout. | Her friend was diagnosed with gout.
Neighbor has gout. | The diagnosis gout is wrong. | Gout was diagnosed erroneously. | Negative history of gout.
History of gout in her brother. | History: gout (mother). | Maternal history of gout.
Impression: heart failure unlikely. | Assessment: asthma; doubt heart failure.
This suggests asthma over heart failure. | Symptoms suggestive of heart failure were sought.
Suggests against heart failure.
"""
"""Each was taken for a contradiction before `mediflow/checking/doubts.py`."""
STILL_FALSE = {
    "lab_value": "HbA1c 9.4 % today. | HbA1c is now 6.2 %. | Her HbA1c came back at 7.2 %, above the range.",
    "lab_flag": "Her HbA1c is low. | HbA1c was reported as normal.",
    "vital": "Pulse 110 on arrival. | BP is 120/80 now.",
    "dose": "Metformin 500 mg BID for T2DM. | She is on salbutamol 200 mcg.",
    "frequency": "Metformin 1 g once a week. | Salbutamol 100 mcg twice daily for asthma.",
    "drug": "Glipizide was begun for T2DM. | She takes aspirin. | Metformin for asthma.",
    "negation": "Pneumothorax was found on imaging. | Polyuria r/o'd. | No complaints of polyuria. | Polyuria: none. | "
    "Fever: yes. | Negative for night sweats. | No evidence of the pleural effusion. | She has chest pain.",
    "side": "Right-sided pleural effusion on imaging. | The pleural effusion is on the right.",
    "size": "The lung nodule is 9 mm. | A large pleural effusion.",
    "diagnosis": "Diagnosed with gout. | History of gout. | Impression: heart failure.",
    "code": "Asthma, ICD-10 J45.20.",
    "age": "She is 45 years old. | A 70-year-old woman with asthma.",
    "duration": "Polyuria for 3 days. | Symptoms began 5 days ago.",
    "follow_up": "Follow up in 2 weeks. | Return to clinic in 10 days.",
    "allergy": "Allergic to sulfa. | Allergies: latex, pollen. | No known allergies.",
    "social": "She smokes daily. | She never drank alcohol.",
    "date": "Admitted on 2024-05-02 (admission).",
}


@pytest.mark.parametrize("text", [one.strip() for line in TRUE.strip().split("\n") for one in line.split(" | ")])
def test_a_doubtful_reading_is_no_contradiction(text: str) -> None:
    """A true sentence of the patient, in words that a rule may misread."""
    assert verify(FACTS, text).contradicted == []


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, one) for kind in STILL_FALSE for one in STILL_FALSE[kind].split(" | ")]
)
def test_plain_contradictions_are_found_all_the_same(kind: str, text: str) -> None:
    """The same facts said wrongly and without a doubt."""
    assert {one.kind for one in verify(FACTS, text).contradicted} == {kind}


def test_lists_of_allergies_end_where_another_statement_begins() -> None:
    """What an unpunctuated note says next is not on the list, and the list itself still is."""
    for text in ("Allergies: PCN (hives) Doctor: Keep taking your salbutamol.", "ALLERGIES - PCN - salbutamol 100 mcg"):
        assert verify(FACTS, text).contradicted == []
    found = verify(FACTS, "ALLERGIES - latex, sulfa Cont salbutamol 100 mcg q8h.").contradicted
    assert [one.said for one in found] == ["latex", "sulfa"]

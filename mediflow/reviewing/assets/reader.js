// The middle: one row to read, beside what it repeats, or to edit. The right: the decision and all that explains the row.

import { el, fill, layout, number, pieces, spaced } from "./dom.js";
import { MARKS } from "./list.js";

const PARTS = ["instruction", "input", "output"];
const isJson = (row) => row.output_format === "json";

/** A text with what contradicts the patient marked: the words said, within the sentence where they stand. */
function marked(text, contradictions, part) {
  const found = [];
  for (const one of contradictions) {
    const [said, where] = [String(one.said ?? ""), String(one.where ?? "")];
    if (PARTS.includes(where) && where !== part) continue;
    const sentence = where && !PARTS.includes(where) ? text.indexOf(where) : -1;
    const at = sentence < 0 ? text.indexOf(said) : where.includes(said) ? sentence + where.indexOf(said) : sentence;
    const length = sentence >= 0 && !where.includes(said) ? where.length : said.length;
    if (at >= 0 && length) found.push([at, at + length, one]);
  }
  found.sort((a, b) => a[0] - b[0]);
  const parts = [];
  let done = 0;
  for (const [from, upto, one] of found) {
    if (from < done) continue;
    parts.push(text.slice(done, from), el("mark", { class: "wrong", title: `${spaced(one.kind)}: the patient's is ${one.true}` }, text.slice(from, upto)));
    done = upto;
  }
  return [...parts, text.slice(done)];
}

export function drawRow(row, into) {
  const mine = row.mine?.decision === "edit" ? row.mine.edited : {};
  const shown = (part) => mine[part] ?? row[part];
  const text = (part) => {
    const value = part === "output" && isJson(row) ? layout(shown(part), true) : shown(part);
    return el("div", { class: `text ${part}${part === "output" && isJson(row) ? " code" : ""}`, "data-part": part }, marked(value, row.contradictions, part));
  };
  const label = (part, more) => el("div", { class: "label" }, part, mine[part] === undefined ? null : el("span", { class: "edited" }, "as you edited it"), more || null);
  const failed = !row.instruction && !row.input;
  fill(into,
    head(row),
    failed ? el("p", { class: "note" }, "This reply could not be used; it stands here as it was written.") : el("div", { class: "card instruction-card" }, label("instruction"), text("instruction")),
    el("div", { class: failed ? "" : "columns" },
      failed ? null : el("div", { class: "card" }, label("input"), text("input")),
      el("div", { class: "card answer" }, label("output"), text("output"))),
    row.rejected_output ? el("div", { class: "card rejected" }, el("div", { class: "label" }, "rejected answer", row.error_type ? el("span", { class: "reason" }, spaced(row.error_type)) : null), el("div", { class: "text" }, pieces(row.rejected_diff, "both"))) : null,
    row.partner ? partner(row) : null);
  into.scrollTop = 0;
}

function head(row) {
  const bad = !["kept", "accepted"].includes(row.decision);
  const why = [row.detail, row.partner || !row.similarity ? "" : `similarity ${number(row.similarity)}`].filter(Boolean).join(" · ");
  return el("div", { class: "head" }, el("h1", {}, spaced(row.task_type)),
    el("div", { class: "badges" }, [spaced(row.input_data), row.difficulty_level, isJson(row) ? "JSON" : spaced(row.output_format)].map((one) => el("span", { class: "badge" }, one)),
      el("span", { class: bad ? "badge bad" : "badge good" }, bad ? `${spaced(row.decision)}${why ? `: ${why}` : ""}` : spaced(row.decision)),
      el("code", { title: "row id" }, row.id)));
}

function partner(row) {
  const parts = PARTS.map((part) => {
    const diff = row.partner_diff[part];
    if (diff.every(([sign]) => sign === "=")) return el("p", { class: "note" }, `The ${part} is the same.`);
    return el("div", { class: "columns" }, el("div", {}, el("div", { class: "label" }, `${part} there`), el("div", { class: "text" }, pieces(diff, "-"))), el("div", {}, el("div", { class: "label" }, `${part} here`), el("div", { class: "text" }, pieces(diff, "+"))));
  });
  return el("div", { class: "card partner" }, el("div", { class: "label" }, "repeats ", el("code", {}, row.partner.id), row.similarity === null ? null : ` · similarity ${number(row.similarity)} · the other is ${spaced(row.partner.decision)}`), parts);
}

/** The row as fields. `check` tells faults as one writes, `save` gets the texts that were changed. */
export function drawEditor(row, into, { check, save, cancel }) {
  const before = Object.fromEntries(PARTS.map((part) => [part, row.mine?.edited?.[part] ?? row[part]]));
  const shown = (part, text) => (part === "output" && isJson(row) ? layout(text, true) : text);
  const fields = Object.fromEntries(PARTS.map((part) => [part, el("textarea", { name: part, "aria-label": part, spellcheck: "true", class: part === "output" && isJson(row) ? "code" : null, value: shown(part, before[part]) })]));
  const verdict = el("div", { id: "validity", role: "status" });
  const done = el("button", { type: "button", class: "main", id: "save-edit", disabled: true }, "Save", el("kbd", {}, "Ctrl ↵"));
  const changed = () => Object.fromEntries(PARTS.filter((part) => fields[part].value !== shown(part, row[part])).map((part) => [part, part === "output" && isJson(row) ? layout(fields[part].value, false) : fields[part].value]));
  let turn = 0;
  async function look() {
    const mine = (turn += 1);
    const { faults, repairs } = await check(changed());
    if (mine !== turn) return faults;
    done.disabled = faults.length > 0;
    verdict.className = faults.length ? "bad" : "good";
    verdict.textContent = faults.length ? faults.join(" · ") : repairs.length ? `✓ will be put right on saving: ${repairs.join(" · ")}` : isJson(row) ? "✓ valid, and as the task asks" : "✓ can be saved";
    return faults;
  }
  async function finish() { if (!(await look()).length) save(changed()); }
  let waiting = 0;
  into.oninput = () => { done.disabled = true; clearTimeout(waiting); waiting = setTimeout(look, 250); };
  into.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); finish(); }
    if (event.key === "Escape") { event.preventDefault(); cancel(); }
  };
  done.addEventListener("click", finish);
  fill(into, head(row),
    el("div", { class: "card editing" }, el("div", { class: "label" }, "instruction"), fields.instruction),
    el("div", { class: "columns editing" }, el("div", { class: "card" }, el("div", { class: "label" }, "input"), fields.input), el("div", { class: "card answer" }, el("div", { class: "label" }, "output"), fields.output)),
    el("div", { class: "savebar" }, verdict, el("button", { type: "button", id: "cancel-edit", onclick: cancel }, "Cancel", el("kbd", {}, "Esc")), done));
  for (const field of Object.values(fields)) field.style.height = `${Math.min(520, Math.max(64, field.scrollHeight + 6))}px`;
  fields.output.focus();
  look();
}

export function drawPanel(row, into, act) {
  const current = row.mine?.decision;
  const button = (verdict, key, text, run) => el("button", { type: "button", id: `do-${verdict}`, class: `verdict ${verdict === "comment" ? "note-it" : verdict}${current === verdict ? " on" : ""}`, onclick: run }, el("span", {}, text), el("kbd", {}, key));
  const failed = !row.instruction && !row.input;
  fill(into,
    el("div", { class: "verdicts" }, button("accept", "a", "Accept", () => act.decide("accept")), button("reject", "r", "Reject", () => act.decide("reject")),
      failed ? null : button("edit", "e", "Edit", act.edit), button("comment", "c", "Comment", act.comment), button("skip", "s", "Skip", () => act.decide("skip")), button("undo", "u", "Undo", act.undo)),
    el("div", { id: "comment-box" }, row.mine?.comment ? el("p", { class: "comment" }, row.mine.comment) : null),
    others(row), judge(row), facts(row), provenance(row));
}

function others(row) {
  if (row.hidden) return el("p", { class: "note", id: "hidden" }, `${row.hidden === 1 ? "Another reviewer has" : `${row.hidden} others have`} decided; shown once you have.`);
  if (!row.others.length) return null;
  return box("others", "Others", row.others.map((one) => el("div", { class: "other" }, el("span", { class: `state ${one.decision}` }, MARKS[one.decision]), el("b", {}, one.reviewer), ` ${one.decision}`, one.comment ? el("p", { class: "comment" }, one.comment) : null)));
}

const box = (id, title, ...children) => el("section", { class: "box", id: `box-${id}` }, el("h2", {}, title), children);

function judge(row) {
  const scored = ["quality", "alignment", "coherence", "realism", "difficulty"].filter((name) => row[name] !== null);
  if (!scored.length) return null;
  const samples = row.judge?.samples || [];
  return box("judge", "Judge", scored.map((name) => {
    const line = [el("span", {}, name), el("span", { class: "meter" }, el("progress", { max: 3, value: row[name] - 1, "aria-label": name })), el("b", {}, row[name].toFixed(1))];
    if (!samples.length) return el("div", { class: "criterion" }, line);
    return el("details", { open: name === "quality" }, el("summary", { class: "criterion" }, line), el("ol", {}, samples.map((sample) => el("li", {}, el("span", { class: "given" }, sample[name].score), sample[name].rationale))));
  }), row.judge?.failed ? el("p", { class: "note" }, `${row.judge.failed} samples could not be read`) : null);
}

function facts(row) {
  if (!row.facts && !row.contradictions.length) return null;
  const truths = row.contradictions.map((one) => String(one.true ?? "")).filter(Boolean);
  const said = (value) => (value !== null && typeof value === "object" ? Object.values(value).map(said).filter(Boolean).join(" ") : String(value ?? ""));
  // A list's entries explain themselves (drug, dose, unit); the values of one large entry do not without their names.
  const entries = (value) => (Array.isArray(value) ? value : value !== null && typeof value === "object" ? Object.entries(value).filter(([, one]) => said(one)).map(([name, one]) => `${spaced(name)}: ${said(one)}`) : [value]);
  const lines = Object.entries(row.facts || {}).filter(([name, value]) => name !== "id" && said(value)).map(([name, value]) => el("div", { class: "fact" }, el("span", {}, spaced(name)),
    el("div", {}, entries(value).map((one) => el("div", { class: truths.some((truth) => said(one).includes(truth)) ? "contradicted" : null }, said(one))))));
  return box("facts", "Facts of the patient", row.contradictions.map((one) => el("div", { class: "contradiction" }, el("b", {}, spaced(one.kind)), el("span", {}, " says ", el("del", {}, String(one.said)), one.true ? [", is ", el("ins", {}, String(one.true))] : null), one.where ? el("small", {}, PARTS.includes(one.where) ? ` in the ${one.where}` : ` in “${one.where}”`) : null)), lines);
}

function provenance(row) {
  const first = row.ledger[0] || {};
  const known = { teacher: row.teacher || first.teacher, model: first.model, "prompt hash": row.call_id || first.call_id, attempt: first.attempt, round: first.round, seed: first.seed, "schema hash": first.schema_hash, cost: first.cost, "facts id": row.facts_id, instruction: row.instruction_id };
  const lines = Object.entries(known).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const ledger = row.ledger;
  return box("provenance", "Where it comes from", lines.map(([name, value]) => el("div", { class: "fact" }, el("span", {}, name), el("div", {}, String(value)))),
    ledger.length ? el("details", {}, el("summary", {}, `${ledger.length} ledger line${ledger.length === 1 ? "" : "s"}`), ledger.map((line) => el("pre", {}, JSON.stringify(line, null, 1)))) : null);
}

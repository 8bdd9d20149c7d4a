// The page: what is chosen, the keys, and the requests between.

import { drawAgreement } from "./agreement.js";
import { get, post } from "./api.js";
import { byId, el, fill, number, toast } from "./dom.js";
import { asked, drawFilters, listItem } from "./list.js";
import { drawEditor, drawPanel, drawRow } from "./reader.js";

const KEYS = [["a", "accept"], ["r", "reject"], ["e", "edit"], ["c", "comment"], ["s", "skip"], ["u", "undo my last decision"], ["j ↓", "next row"], ["k ↑", "previous row"], ["/", "search"], ["g", "agreement, and back"], ["?", "this list"], ["Ctrl ↵", "save an edit or comment"], ["Esc", "leave it"]];
const state = { about: null, reviewer: "", filters: {}, rows: [], total: 0, at: -1, row: null, busy: false, loading: false, turn: 0, opening: 0 };

const guarded = (work) => async (...given) => {
  try { return await work(...given); } catch (error) { toast(error.message, true); return undefined; }
};

function showProgress(done) {
  byId("progress-text").textContent = `${number(done)} of ${number(state.about.total)} judged`;
  byId("progress-bar").style.width = `${state.about.total ? Math.max(done ? 1 : 0, (100 * done) / state.about.total) : 0}%`;
}

// --- the list ---
async function loadPage(from) {
  const page = await get("rows", { ...asked(state.filters), reviewer: state.reviewer, offset: from });
  showProgress(page.progress);
  return page;
}

const reload = guarded(async (keep) => {
  const mine = (state.turn += 1);
  keepInAddress();
  drawFilters(state.about, state.filters, () => reload());
  byId("count").textContent = "…";
  const page = await loadPage(0);
  if (mine !== state.turn) return;
  state.rows = page.rows;
  state.total = page.total;
  byId("count").textContent = page.total === state.about.total ? `${number(page.total)} rows` : `${number(page.total)} of ${number(state.about.total)} rows`;
  byId("list").replaceChildren(...page.rows.map((row, at) => listItem(row, at, -1, choose)));
  byId("list").scrollTop = 0;
  if (!page.rows.length) {
    state.at = -1;
    state.row = null;
    byId("reading").replaceChildren(el("div", { class: "empty" }, el("h1", {}, "No row passes"), el("p", {}, "Loosen a filter, or clear them all.")));
    byId("panel").replaceChildren();
    return;
  }
  const place = keep ? page.rows.findIndex((row) => row.id === keep) : 0;
  if (keep && place < 0) await openRow(keep);
  else await choose(Math.max(0, place));
});

const loadMore = guarded(async () => {
  if (state.loading || state.rows.length >= state.total) return;
  state.loading = true;
  const [from, turn] = [state.rows.length, state.turn];
  try {
    const page = await loadPage(from);
    if (turn !== state.turn) return;
    // Rows judged since may have left the list: what is there already is not shown twice.
    const known = new Set(state.rows.map((row) => row.id));
    const fresh = page.rows.filter((row) => !known.has(row.id));
    state.rows.push(...fresh);
    if (!page.rows.length) state.total = state.rows.length;
    byId("list").append(...fresh.map((row, at) => listItem(row, state.rows.length - fresh.length + at, state.at, choose)));
  } finally { state.loading = false; }
});

const choose = guarded(async (at) => {
  if (at >= state.rows.length) await loadMore();
  if (at < 0 || at >= state.rows.length) { toast(at < 0 ? "This is the first row" : "This was the last row"); return; }
  mark(at);
  await openRow(state.rows[at].id);
  if (at > state.rows.length - 15) loadMore();
});

function mark(at) {
  byId(`item-${state.at}`)?.classList.remove("current");
  byId(`item-${state.at}`)?.setAttribute("aria-selected", "false");
  state.at = at;
  const item = byId(`item-${at}`);
  item?.classList.add("current");
  item?.setAttribute("aria-selected", "true");
  item?.scrollIntoView({ block: "nearest" });
}

function redrawItem(id, mine) {
  const at = state.rows.findIndex((row) => row.id === id);
  if (at < 0) return;
  state.rows[at].mine = mine?.decision || null;
  byId(`item-${at}`)?.replaceWith(listItem(state.rows[at], at, state.at, choose));
}

// --- one row ---
async function openRow(id) {
  // Keys are quicker than answers, which may come in another order: only the last row asked for is shown.
  const mine = (state.opening += 1);
  const row = await get(`rows/${encodeURIComponent(id)}`, { reviewer: state.reviewer });
  if (mine !== state.opening) return;
  state.row = row;
  keepInAddress();
  show();
}

function show() {
  byId("reading").onkeydown = null;
  byId("reading").oninput = null;
  state.editing = false;
  drawRow(state.row, byId("reading"));
  drawPanel(state.row, byId("panel"), { decide, edit, comment, undo });
}

const decide = guarded(async (decision, more) => {
  if (!state.row || state.busy) return;
  state.busy = true;
  try {
    const id = state.row.id;
    const given = { row_id: id, reviewer: state.reviewer, decision, comment: state.row.mine?.comment || "", ...more };
    const back = await post("decisions", given);
    showProgress(back.progress);
    redrawItem(id, back.mine);
    Object.assign(state.row, { mine: back.mine, others: back.others, hidden: back.hidden });
    show();
    toast(`${decision === "skip" ? "Skipped" : decision === "accept" ? "Accepted" : decision === "reject" ? "Rejected" : "Edit saved"}`);
    if (!more?.stay && state.at + 1 < state.total) await choose(state.at + 1);
  } finally { state.busy = false; }
});

const undo = guarded(async () => {
  if (state.busy) return;
  const back = await post("undo", { reviewer: state.reviewer });
  showProgress(back.progress);
  redrawItem(back.row_id, back.mine);
  const at = state.rows.findIndex((row) => row.id === back.row_id);
  if (at >= 0) mark(at);
  await openRow(back.row_id);
  toast(back.mine ? `Back to: ${back.mine.decision}` : "Undone");
});

function edit() {
  if (!state.row || (!state.row.instruction && !state.row.input)) return;
  const row = state.row;
  state.editing = true;
  drawEditor(row, byId("reading"), {
    check: (edited) => post("check", { row_id: row.id, edited }),
    save: (edited) => decide("edit", { edited }),
    cancel: show,
  });
}

function comment() {
  if (!state.row) return;
  const row = state.row;
  const field = el("textarea", { id: "comment", "aria-label": "comment", placeholder: "what should others know? Ctrl ↵ saves", value: row.mine?.comment || "" });
  const save = () => {
    const verdict = row.mine?.decision || "skip";
    return decide(verdict, { comment: field.value, edited: verdict === "edit" ? row.mine.edited : {}, stay: true });
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
    if (event.key === "Escape") { event.preventDefault(); drawPanel(row, byId("panel"), { decide, edit, comment, undo }); }
  });
  fill(byId("comment-box"), field, el("div", { class: "buttons" }, row.mine ? null : el("span", { class: "note" }, "saved as a skip until you judge"), el("button", { type: "button", class: "main", id: "save-comment", onclick: save }, "Save comment")));
  field.focus();
}

// --- agreement, names, keys ---
const turnTo = guarded(async (place) => {
  const agreement = place === "agreement";
  byId("agreement").hidden = !agreement;
  byId("review").hidden = agreement;
  byId("to-review").setAttribute("aria-pressed", String(!agreement));
  byId("to-agreement").setAttribute("aria-pressed", String(agreement));
  if (agreement) drawAgreement(await get("agreement", { reviewer: state.reviewer }), byId("agreement"), (id) => { turnTo("review"); const at = state.rows.findIndex((row) => row.id === id); if (at >= 0) choose(at); else guarded(openRow)(id); });
});

function askName() {
  return new Promise((done) => {
    const [dialog, field] = [byId("ask"), byId("name")];
    field.value = state.reviewer;
    const finish = () => {
      const name = field.value.trim();
      if (!name) { field.focus(); return; }
      dialog.close();
      done(name);
    };
    byId("name-done").onclick = finish;
    field.onkeydown = (event) => { if (event.key === "Enter") finish(); };
    dialog.oncancel = (event) => { if (!state.reviewer) event.preventDefault(); };
    dialog.showModal();
    field.focus();
  });
}

async function setName(name) {
  state.reviewer = name || (await askName());
  sessionStorage.setItem("reviewer", state.reviewer);
  byId("who").textContent = state.reviewer;
}

function keepInAddress() {
  const kept = new URLSearchParams(Object.entries(state.filters).filter(([, value]) => value));
  if (state.row) kept.set("row", state.row.id);
  history.replaceState(null, "", `#${kept}`);
}

function help() {
  const dialog = byId("keys");
  dialog.replaceChildren(el("h2", {}, "Keys"), el("dl", {}, KEYS.map(([key, what]) => [el("dt", {}, key.split(" ").map((one) => el("kbd", {}, one))), el("dd", {}, what)])),
    el("p", { class: "note" }, `Decisions are saved at once, to ${state.about.decisions}. A comment alone is saved as a skip.`), el("div", { class: "buttons" }, el("button", { type: "button", class: "main", onclick: () => dialog.close() }, "Close")));
  dialog.showModal();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape" && !event.target.closest("#reading, #panel")) event.target.blur();
    return;
  }
  const reviewing = !byId("review").hidden;
  const does = { "?": help, g: () => turnTo(reviewing ? "agreement" : "review") };
  if (reviewing && !state.editing) {
    Object.assign(does, { a: () => decide("accept"), r: () => decide("reject"), s: () => decide("skip"), e: edit, c: comment, u: undo,
      j: () => choose(state.at + 1), ArrowDown: () => choose(state.at + 1), k: () => choose(state.at - 1), ArrowUp: () => choose(state.at - 1),
      "/": () => { byId("search").focus(); byId("search").select(); } });
  }
  if (!does[event.key]) return;
  event.preventDefault();
  does[event.key]();
}

const begin = guarded(async () => {
  state.about = await get("about");
  document.title = `${state.about.title} · MediFlow review`;
  byId("title").textContent = state.about.title;
  byId("title").title = state.about.folder;
  if (state.about.simulated) byId("title").after(el("span", { class: "simulated" }, "simulated data"));
  await setName(state.about.reviewer || sessionStorage.getItem("reviewer"));
  const kept = new URLSearchParams(location.hash.slice(1));
  const row = kept.get("row");
  kept.delete("row");
  state.filters = Object.fromEntries(kept);
  byId("to-review").onclick = () => turnTo("review");
  byId("to-agreement").onclick = () => turnTo("agreement");
  byId("help").onclick = help;
  byId("who").onclick = guarded(async () => { await setName(await askName()); await reload(state.row?.id); });
  byId("list").addEventListener("scroll", (event) => { if (event.target.scrollTop + event.target.clientHeight > event.target.scrollHeight - 600) loadMore(); });
  document.addEventListener("keydown", pressed);
  await reload(row);
  document.body.dataset.ready = "1";
});

begin();

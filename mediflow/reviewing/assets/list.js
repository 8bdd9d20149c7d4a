// The left column: filters, and the rows that pass them.

import { byId, el, fill, number, spaced } from "./dom.js";

const STATES = { "": "any", undecided: "not seen by me", decided: "judged by me", accept: "accepted by me", reject: "rejected by me", edit: "edited by me", skip: "skipped by me", commented: "with my comment", disagreement: "reviewers differ" };
const ORDERS = { rank: "as ranked", quality_low: "lowest quality first", quality_high: "highest quality first", contradicted: "most contradicted first", shuffled: "shuffled" };
export const MARKS = { accept: "✓", reject: "✗", edit: "✎", skip: "–" };

export function drawFilters(about, filters, changed) {
  const set = (name) => (event) => { filters[name] = event.target.type === "checkbox" ? (event.target.checked ? "1" : "") : event.target.value; changed(); };
  const field = (label, input) => el("label", {}, el("span", {}, label), input);
  const pick = (name, label, options) => {
    const select = el("select", { name, onchange: set(name) }, el("option", { value: "" }, "any"), options);
    select.value = filters[name] || "";
    select.classList.toggle("set", Boolean(filters[name]));
    return field(label, select);
  };
  const facet = (name, label) => pick(name, label, about.facets[name].map(([value, count]) => el("option", { value }, `${spaced(value) || "(none)"} · ${number(count)}`)));
  const sections = about.facets.document.map(([document, count]) => el("optgroup", { label: spaced(document) },
    el("option", { value: `document=${document}` }, `${spaced(document)} · ${number(count)}`),
    about.facets.input_data.filter(([name]) => name.startsWith(`${document}:`)).map(([name, some]) => el("option", { value: `input_data=${name}` }, `${name.slice(document.length + 1).trim()} · ${number(some)}`))));
  const named = (table) => Object.entries(table).filter(([value]) => value).map(([value, text]) => el("option", { value }, text));
  const search = el("input", { type: "search", id: "search", placeholder: "search texts and reasons  ( / )", "aria-label": "search", value: filters.text || "", onchange: set("text") });
  const scored = about.facets.scored.filter(([, count]) => count).map(([name]) => name);
  const range = (name) => el("div", { class: "range" }, el("span", {}, name), ["min", "max"].map((side) => el("input", { type: "number", min: 1, max: 4, step: 0.1, placeholder: side === "min" ? "1" : "4", "aria-label": `${name}, ${side}`, name: `${name}_${side}`, value: filters[`${name}_${side}`] || "", onchange: set(`${name}_${side}`) })));
  const used = scored.some((name) => filters[`${name}_min`] || filters[`${name}_max`]);
  const states = Object.fromEntries(Object.entries(STATES).filter(([name]) => !(about.blind && name === "disagreement")));
  const active = Object.values(filters).some(Boolean);
  fill(byId("filters"),
    search,
    el("div", { class: "grid" },
      pick("state", "state", named(states)), facet("decision", about.kind === "curate" ? "kept or why not" : "status"),
      facet("task_type", "task"), pick("place", "document and section", sections),
      facet("difficulty_level", "difficulty"), facet("output_format", "format")),
    scored.length ? el("details", { open: used }, el("summary", {}, "scores"), scored.map(range)) : null,
    el("div", { class: "line" },
      el("label", {}, el("span", {}, "order"), Object.assign(el("select", { name: "order", onchange: set("order") }, named(ORDERS)), { value: filters.order || "rank" })),
      about.facets.contradicted[0][1] ? el("label", { class: "tick" }, Object.assign(el("input", { type: "checkbox", name: "contradicted", onchange: set("contradicted") }), { checked: Boolean(filters.contradicted) }), "contradicted facts") : null,
      active ? el("button", { type: "button", class: "quiet", id: "clear", onclick: () => { for (const name of Object.keys(filters)) delete filters[name]; changed(); } }, "clear") : null));
}

/** The filters as the server takes them: one field of the page holds a document or one of its sections. */
export function asked(filters) {
  const { place, ...rest } = filters;
  if (!place) return rest;
  const cut = place.indexOf("=");
  return { ...rest, [place.slice(0, cut)]: place.slice(cut + 1) };
}

export function listItem(row, at, current, choose) {
  const bad = !["kept", "accepted"].includes(row.decision);
  return el("div", { class: `item${at === current ? " current" : ""}${bad ? " gone" : ""}`, role: "option", id: `item-${at}`, "aria-selected": String(at === current), "data-id": row.id, onclick: () => choose(at) },
    el("span", { class: `state ${row.mine || "none"}`, title: row.mine || "not seen" }, MARKS[row.mine] || ""),
    el("div", { class: "what" },
      el("div", { class: "first" }, el("b", {}, spaced(row.task_type)), row.quality === null ? null : el("span", { class: "score", title: "quality" }, row.quality.toFixed(1))),
      el("div", { class: "label" }, row.label || row.detail),
      el("div", { class: "small" }, bad ? el("span", { class: "reason" }, spaced(row.decision)) : null, row.contradicted ? el("span", { class: "reason" }, `${row.contradicted} contradicted`) : null, spaced(row.input_data), " · ", row.difficulty_level)));
}

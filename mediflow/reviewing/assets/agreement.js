// How far reviewers agree, and where they do not.

import { el, number, spaced } from "./dom.js";
import { MARKS } from "./list.js";

const VERDICTS = ["accept", "edit", "reject", "skip"];
const value = (one) => (one === null ? "–" : one.toFixed(2));
const words = (one) => (one === null ? "no value yet" : one < 0 ? "less than chance" : one <= 0.2 ? "slight" : one <= 0.4 ? "fair" : one <= 0.6 ? "moderate" : one <= 0.8 ? "substantial" : "almost perfect");
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(0)} %` : "–");

function reviewer(one) {
  return el("tr", {}, el("th", {}, one.name), el("td", {}, number(one.all)), VERDICTS.map((verdict) => el("td", {}, number(one[verdict] || 0))),
    el("td", { class: "stack" }, el("div", {}, VERDICTS.filter((verdict) => one[verdict]).map((verdict) => { const part = el("i", { class: verdict, title: `${verdict}: ${percent(one[verdict], one.all)}` }); part.style.flexGrow = one[verdict]; return part; }))));
}

function pair(one) {
  return el("div", { class: "card pair" }, el("div", { class: "label" }, `${one.one} and ${one.other}`),
    el("div", { class: "big" }, value(one.kappa)), el("p", { class: "note" }, `Cohen's kappa: ${words(one.kappa)}. The same on ${number(one.same)} of ${number(one.rows)} rows (${percent(one.same, one.rows)}).`),
    el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, `${one.one} ↓ ${one.other} →`), one.labels.map((label) => el("th", {}, label)))),
      el("tbody", {}, one.table.map((row, at) => el("tr", {}, el("th", {}, one.labels[at]), row.map((count, place) => el("td", { class: at === place ? "same" : count ? "differ" : null }, number(count))))))));
}

export function drawAgreement(found, into, open) {
  if (!found.reviewers.length) {
    into.replaceChildren(el("div", { class: "empty" }, el("h1", {}, "Agreement"), el("p", {}, "Nobody has decided anything yet.")));
    return;
  }
  into.replaceChildren(el("div", { class: "wide" },
    el("h1", {}, "Agreement"),
    el("div", { class: "cards" },
      el("div", { class: "card pair" }, el("div", { class: "label" }, "all reviewers"), el("div", { class: "big", id: "alpha" }, value(found.alpha)), el("p", { class: "note" }, `Krippendorff's alpha: ${words(found.alpha)}. ${number(found.rows_shared)} of ${number(found.rows_judged)} judged rows were judged by two or more.`)),
      found.pairs.map(pair)),
    el("h2", {}, "Reviewers"),
    el("div", { class: "card" }, el("table", { id: "reviewers" }, el("thead", {}, el("tr", {}, ["", "all", ...VERDICTS, ""].map((name) => el("th", {}, name)))), el("tbody", {}, found.reviewers.map(reviewer)))),
    el("h2", {}, `Rows on which they differ${found.blind ? ", of those that you have judged" : ""}: ${number(found.disagreements.length)}`),
    found.disagreements.length ? el("div", { class: "card" }, el("table", { id: "differ" }, el("tbody", {}, found.disagreements.map((one) => el("tr", { tabindex: 0, onclick: () => open(one.row_id), onkeydown: (event) => { if (event.key === "Enter") open(one.row_id); } },
      el("th", {}, spaced(one.task_type)), el("td", { class: "text" }, one.label || one.row_id), el("td", {}, Object.entries(one.decisions).map(([who, verdict]) => el("span", { class: "vote" }, el("span", { class: `state ${verdict}` }, MARKS[verdict]), ` ${who}`)))))))) : el("p", { class: "note" }, "There is none."),
    el("p", { class: "note" }, "A skip is no judgement. Both measures take accept, edit and reject as names without an order, and count agreement beyond what chance would give.")));
}

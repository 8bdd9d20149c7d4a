"use strict";
// Draws the report from the numbers in #data. Texts are set as text, never as HTML: rows hold whatever a teacher wrote.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const [TASKS, INPUTS, LEVELS, FORMATS] = ["task_type", "input_data", "difficulty_level", "output_format"].map((axis) => data.axes[axis]);
const GROUP_COLOURS = { people: "#7a4fb5", "not fit to use": "#c2410c", repeats: "#b08442", "test data": "#be185d", quality: "#2b6cd4", number: "#64748b", other: "#6b7280" };
const TASK_COLOURS = ["#0e8a7d", "#c2410c", "#7a4fb5", "#2b6cd4", "#b08442", "#15803d", "#be185d", "#0891b2", "#65730f", "#6d5ce8", "#64748b", "#dc2626", "#a1662f", "#db77b5"];

const spaced = (name) => String(name).replaceAll("_", " ");
const number = (value) => (typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 2 }) : String(value));
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(part && part / whole < 0.01 ? 2 : 1)} %` : "–");

function put(element, options, children) {
  for (const [name, value] of Object.entries(options || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
const el = (tag, options, ...children) => put(document.createElement(tag), options, children);
const draw = (tag, options, ...children) => put(document.createElementNS(SVG, tag), options, children);

const tip = document.getElementById("tip");
function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${event.clientY + box.height + 26 > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
}
const hideTip = () => { tip.hidden = true; };

function section(id, title, note, ...body) {
  document.getElementById("contents").append(el("li", {}, el("a", { href: `#${id}` }, title)));
  document.getElementById("main").append(el("section", { id }, el("h2", {}, title), note ? el("p", {}, note) : null, ...body));
}

function choice(label, values, first, changed) {
  const buttons = values.map(([value, text]) => el("button", { type: "button", "aria-pressed": String(value === first), onclick: () => {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === buttons[values.findIndex((one) => one[0] === value)])));
    changed(value);
  } }, text));
  return el("span", { class: "choice", role: "group", "aria-label": label }, buttons);
}

function picker(label, values, changed) {
  return el("label", {}, `${label} `, el("select", { onchange: (event) => changed(event.target.value) }, values.map(([value, text]) => el("option", { value }, text))));
}

function table(head, rows) {
  return el("div", { class: "card scroll" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", {}, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => (cell instanceof Node ? cell : el("td", {}, typeof cell === "number" ? number(cell) : String(cell)))))))));
}
const bar = (part, whole, bad) => el("td", { class: bad ? "share bad" : "share", title: percent(part, whole) }, el("div", {}, el("i", { style: `width:${whole ? (100 * part) / whole : 0}%` })));

// --- head ---
function drawHead() {
  const lead = document.getElementById("lead");
  const facts = data.facts;
  lead.append(el("p", { class: "lead" }, `${number(data.kept)} of ${number(data.came)} generated rows were kept (${percent(data.kept, data.came)}), from ${TASKS.length} tasks, ${INPUTS.length} inputs, ${LEVELS.length} levels of difficulty and ${FORMATS.length} output formats.`));
  if (facts.simulated) lead.append(el("p", { class: "badge", id: "simulated" }, el("strong", {}, facts.own_passages ? "◆ Simulated answers" : "◆ Simulated data"), el("span", {}, facts.own_passages ? "Made by the simulated teacher by extraction from given passages, to exercise the pipeline. Not for clinical use." : "Written by rules about invented patients, to exercise the pipeline. Not medical knowledge, not for clinical use.")));
  const dropped = (group) => data.drops.filter((drop) => drop.group === group).reduce((sum, drop) => sum + drop.rows, 0);
  const pairs = TASKS.length * INPUTS.length;
  const check = facts.verification;
  const tiles = [
    ["kept", number(data.kept), `of ${number(data.came)}`, "var(--accent)"],
    facts.instructions ? ["instructions", number(facts.instructions), "different ones", "var(--accent)"] : null,
    ["task × input", `${number(pairs - data.holes.length)}`, `of ${number(pairs)} pairs filled`, data.holes.length ? "rgb(var(--hole))" : "var(--accent)"],
    ["repeats out", number(dropped("repeats")), percent(dropped("repeats"), data.came), GROUP_COLOURS.repeats],
    ["test data out", number(dropped("test data")), Object.keys(data.contamination).length ? `${Object.keys(data.contamination).length} benchmarks` : "not compared", GROUP_COLOURS["test data"]],
    check ? ["facts contradicted", percent(check.contradicted, check.checked), `of ${number(check.checked)} checked`, "var(--bad)"] : null,
  ];
  lead.append(el("ul", { class: "tiles" }, tiles.filter(Boolean).map(([what, big, more, colour]) => el("li", { style: `--c:${colour}` }, el("span", { class: "what" }, what), el("b", {}, big), el("span", { class: "what" }, more)))));
}

// --- funnel ---
function drawFunnel() {
  const lines = [];
  const line = (name, group, parts, count, strong) => lines.push(
    el("div", { class: strong ? "strong" : null }, name, group ? el("span", { class: "group" }, group) : null),
    el("div", { class: "track" }, parts.map(([kind, from, width]) => el("i", { class: kind, style: `left:${(100 * from) / data.came}%;width:max(${width ? 1.5 : 0}px,${(100 * width) / data.came}%)` }))),
    el("div", { class: "number" + (strong ? " strong" : "") }, number(count), el("small", {}, percent(count, data.came))));
  line("came in", "", [["whole", 0, data.came]], data.came, true);
  let left = data.came;
  for (const drop of data.drops) {
    left -= drop.rows;
    line(spaced(drop.reason), drop.group, [["left", 0, left], ["cut", left, drop.rows]], drop.rows);
  }
  line("kept", "", [["whole", 0, data.kept]], data.kept, true);
  section("funnel", "What was kept", data.drops.length ? "Each line is a reason; what it took is dark, what was left after it pale. Every dropped row is in dropped.parquet with its reason and, if it repeats something, of what." : "No row was dropped.", el("div", { class: "card funnel" }, lines));
}

// --- histograms ---
function histogram(one, task, width) {
  const counts = one.counts[task] || { all: [], kept: [] };
  const bins = counts.all.length;
  const [height, base] = [96, 128];
  const most = Math.max(1, ...counts.all);
  const x = (place) => (place * width) / Math.max(1, bins);
  const high = one.low + one.step * bins;
  const marks = counts.all.flatMap((all, place) => {
    const column = (count, kind) => (count ? draw("rect", { class: kind, x: x(place) + 0.75, width: Math.max(0.5, x(1) - 1.5), y: base - (height * count) / most, height: (height * count) / most }) : null);
    const from = one.low + place * one.step;
    const upto = place === bins - 1 && one.step > 0.9 ? "and more" : `to ${number(from + one.step)}`;
    return [column(all, "all"), column(counts.kept[place], "kept"), draw("rect", { x: x(place), width: x(1), y: base - height, height, fill: "transparent",
      onmousemove: (event) => showTip(event, `${number(from)} ${upto}\n${number(counts.kept[place])} kept of ${number(all)}`), onmouseleave: hideTip })];
  });
  const median = one.medians[task];
  const at = median === undefined || !bins ? null : Math.min(width, ((median - one.low) / (high - one.low)) * width);
  return el("div", { class: "card" }, draw("svg", { viewBox: `0 0 ${width} 146`, role: "img", "aria-label": `histogram of ${one.name}` },
    draw("text", { class: "name", x: 0, y: 13 }, spaced(one.name)),
    draw("text", { x: width, y: 13, "text-anchor": "end" }, median === undefined ? "none kept" : `median ${number(median)}`),
    marks, draw("line", { class: "axis", x1: 0, x2: width, y1: base + 0.5, y2: base + 0.5 }),
    at === null ? null : draw("line", { class: "median", x1: at, x2: at, y1: base - height, y2: base }),
    draw("text", { x: 0, y: base + 15 }, number(one.low)), draw("text", { x: width, y: base + 15, "text-anchor": "end" }, bins ? number(high) : "")));
}

function drawHistograms() {
  const key = () => el("ul", { class: "key" }, el("li", {}, el("i", { style: "--c:var(--all)" }), "came in"), el("li", {}, el("i", { style: "--c:var(--accent)" }), "kept"), el("li", {}, "┊ median of what was kept"));
  const add = (id, title, note, charts, kind, width, empty) => {
    if (!charts.length) return empty ? section(id, title, empty) : null;
    const grid = el("div", { class: kind });
    const show = (task) => grid.replaceChildren(...charts.map((one) => histogram(one, task, width)));
    show("");
    section(id, title, note, el("div", { class: "bar" }, picker("task", [["", "all tasks"], ...TASKS.map((task) => [task, spaced(task)])], show), key()), grid);
  };
  add("scores", "Scores", "The judge's means over its samples, from 1 to 4.", data.scores, "grid", 210, "No judge's scores were given.");
  add("lengths", "Lengths", "In words; the last bar holds all that is longer.", data.lengths, "grid wide", 370);
}

// --- coverage ---
const cells = []; // [task, input, level, format, planned, generated, kept]
for (let at = 0; at < data.cells.length; at += 7) cells.push(data.cells.slice(at, at + 7));
const why = new Map(data.holes.map(([task, input, reason]) => [task * INPUTS.length + input, reason]));

function countPairs(level, format) {
  const sums = TASKS.map(() => INPUTS.map(() => [0, 0, 0]));
  for (const cell of cells) {
    if ((level !== -1 && cell[2] !== level) || (format !== -1 && cell[3] !== format)) continue;
    const sum = sums[cell[0]][cell[1]];
    for (let part = 0; part < 3; part += 1) sum[part] += cell[4 + part];
  }
  return sums;
}

const MEASURES = {
  kept: { text: "kept", value: (sum) => sum[2], word: "rows kept" },
  came: { text: "came in", value: (sum) => sum[1], word: "rows that came in" },
  planned: { text: "planned", value: (sum) => sum[0], word: "rows planned" },
  share: { text: "share kept", value: (sum) => (sum[1] ? sum[2] / sum[1] : 0), word: "share of what came in" },
};

function drawCoverage() {
  const state = { measure: "kept", level: -1, format: -1, task: 0, input: 0 };
  const place = el("div", { class: "scroll" });
  const chosen = el("div", { class: "chosen" });
  const scale = el("span", {});
  const [left, top, height, gap] = [214, 176, 21, 3];
  const starts = [];
  let x = left;
  const groups = data.documents.reduce((all, name, at) => (at && name === data.documents[at - 1] ? all : [...all, [name, at]]), []);
  const width = (1190 - left - gap * (groups.length - 1)) / INPUTS.length;
  data.documents.forEach((name, at) => { if (at && name !== data.documents[at - 1]) x += gap; starts.push(x); x += width; });
  const bottom = top + height * TASKS.length;
  const cursor = draw("rect", { class: "cursor", width: width + 1, height: height + 1, rx: 2 });

  function choose(task, input, scroll) {
    Object.assign(state, { task, input });
    cursor.setAttribute("x", starts[input] - 1);
    cursor.setAttribute("y", top + task * height - 0.5);
    showChosen(chosen, task, input);
    if (scroll) chosen.scrollIntoView({ block: "nearest" });
  }
  function show() {
    const sums = countPairs(state.level, state.format);
    const measure = MEASURES[state.measure];
    const most = state.measure === "share" ? 1 : Math.max(1, ...sums.flat().map(measure.value));
    const depth = (value) => 0.12 + 0.88 * (value / most);
    const marks = sums.flatMap((row, task) => row.map((sum, input) => {
      const value = measure.value(sum);
      const box = { x: starts[input], y: top + task * height, width: width - 1, height: height - 1, rx: 1.5,
        onclick: () => choose(task, input, true), onmouseleave: hideTip,
        onmousemove: (event) => showTip(event, `${spaced(TASKS[task])}\n${spaced(INPUTS[input])}\n${data.planned === null ? "" : `${number(sum[0])} planned · `}${number(sum[1])} came in · ${number(sum[2])} kept${sum[2] ? "" : `\nempty: ${spaced(sum[1] ? why.get(task * INPUTS.length + input) || "all dropped" : sum[0] ? "not generated" : "no row")}`}`) };
      if (value) return draw("rect", { ...box, class: "cell", fill: `rgb(var(--heat) / ${depth(value).toFixed(3)})` });
      if (sum[1]) return draw("rect", { ...box, class: "cell full-hole" });
      if (sum[0]) return draw("rect", { ...box, x: box.x + 0.6, y: box.y + 0.6, width: box.width - 1.2, height: box.height - 1.2, class: "cell hollow", "pointer-events": "all" });
      return draw("rect", { ...box, class: "cell blank" });
    }));
    const names = TASKS.map((task, at) => draw("text", { x: left - 8, y: top + at * height + height / 2 + 4, "text-anchor": "end" }, spaced(task).length > 34 ? `${spaced(task).slice(0, 33)}…` : spaced(task)));
    const heads = groups.map(([name, at], place) => {
      const end = place + 1 < groups.length ? groups[place + 1][1] - 1 : INPUTS.length - 1;
      const middle = (starts[at] + starts[end] + width) / 2;
      return draw("text", { transform: `translate(${middle + 4},${top - 7}) rotate(-90)` }, spaced(name).length > 30 ? `${spaced(name).slice(0, 29)}…` : spaced(name));
    });
    place.replaceChildren(draw("svg", { viewBox: `0 0 1192 ${bottom + 2}`, role: "application", tabindex: 0, "aria-label": "coverage: task by input; arrow keys move, the cell's samples are below", onkeydown: (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      choose(Math.min(TASKS.length - 1, Math.max(0, state.task + step[0])), Math.min(INPUTS.length - 1, Math.max(0, state.input + step[1])));
    } }, names, heads, marks, cursor));
    scale.replaceChildren("0", el("span", { class: "ramp" }, [0.02, 0.15, 0.35, 0.6, 1].map((part) => el("i", { style: `background:rgb(var(--heat) / ${depth(part * most).toFixed(2)})` }))), state.measure === "share" ? "100 %" : `${number(most)} ${measure.word}`);
  }
  const measures = Object.entries(MEASURES).filter(([name]) => name !== "planned" || data.planned !== null).map(([name, one]) => [name, one.text]);
  const again = (name) => (value) => { state[name] = value; show(); };
  const lostKinds = [...why.values()].reduce((counts, reason) => counts.set(reason, (counts.get(reason) || 0) + 1), new Map());
  const said = data.holes.length ? `Of ${number(TASKS.length * INPUTS.length)} pairs of task and input, ${number(data.holes.length)} hold no kept row: ${[...lostKinds].sort((a, b) => b[1] - a[1]).map(([reason, count]) => `${number(count)} ${spaced(reason)}`).join(", ")}.` : `Every one of the ${number(TASKS.length * INPUTS.length)} pairs of task and input holds kept rows.`;
  section("coverage", "Coverage", said,
    el("div", { class: "bar" }, choice("what is counted", measures, "kept", again("measure")),
      choice("difficulty", [[-1, "all levels"], ...LEVELS.map((level, at) => [at, level])], -1, again("level")),
      choice("format", [[-1, "both formats"], ...FORMATS.map((format, at) => [at, format === "json" ? "JSON" : spaced(format)])], -1, again("format"))),
    el("div", { class: "card" }, place),
    el("ul", { class: "key" }, el("li", {}, scale), el("li", {}, el("i", { style: "--c:rgb(var(--hole) / .75)" }), "came in, nothing kept"), data.planned === null ? null : el("li", {}, el("i", { class: "empty" }), "planned, nothing came"), el("li", {}, el("i", { class: "blank" }), data.planned === null ? "no row" : "not planned"), el("li", {}, "Choose a cell to read its rows.")),
    chosen);
  show();
  const first = data.samples.find((sample) => TASKS.includes(sample.task_type) && INPUTS.includes(sample.input_data));
  choose(first ? TASKS.indexOf(first.task_type) : 0, first ? INPUTS.indexOf(first.input_data) : 0);
}

function showChosen(into, task, input) {
  const rows = LEVELS.map((level, at) => [spaced(level), ...FORMATS.map((_, format) => {
    const cell = cells.find((one) => one[0] === task && one[1] === input && one[2] === at && one[3] === format);
    return cell ? `${number(cell[6])} / ${number(cell[5])}` : "·";
  })]);
  const found = data.samples.filter((sample) => sample.task_type === TASKS[task] && sample.input_data === INPUTS[input]);
  const kept = cells.filter((one) => one[0] === task && one[1] === input).reduce((sum, one) => sum + one[6], 0);
  const reason = why.get(task * INPUTS.length + input);
  into.replaceChildren(
    el("div", {}, el("h3", {}, spaced(TASKS[task])), el("p", { class: "note" }, spaced(INPUTS[input]), el("br"), reason ? `empty: ${spaced(reason)}` : `${number(kept)} rows kept`), table(["kept / came in", ...FORMATS.map((format) => (format === "json" ? "JSON" : spaced(format)))], rows)),
    el("div", { id: "cell-samples" }, found.length ? found.map(article) : el("p", { class: "note" }, kept ? "None of this cell's rows is among this page's samples; all of them are in data/." : "There is no kept row to show.")));
}

// --- samples ---
// JSON laid out anew without reading its values: 1.0 stays 1.0.
function pretty(text, isJson) {
  if (!isJson) return text;
  try { JSON.parse(text); } catch { return text; }
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g) || [];
  return tokens.map((token, at) => {
    if (token === "{" || token === "[") { depth += 1; return token + (/^[\]}]$/.test(tokens[at + 1]) ? "" : line()); }
    if (token === "}" || token === "]") { depth -= 1; return (/^[[{]$/.test(tokens[at - 1]) ? "" : line()) + token; }
    return token === "," ? `,${line()}` : token === ":" ? ": " : token;
  }).join("");
}

function article(sample) {
  const json = sample.output_format === "json";
  const scores = ["quality", "alignment", "coherence", "realism", "difficulty"].filter((name) => sample[name] !== undefined).map((name) => `${name} ${number(sample[name])}`).join(" · ");
  const part = (name, code) => el("div", { class: name }, el("div", { class: "label" }, name), el("div", { class: code ? "text code" : "text" }, pretty(sample[name], code) + (sample.cut.includes(name) ? " […cut here]" : "")));
  return el("article", {}, el("header", {}, el("b", {}, spaced(sample.task_type)), el("span", {}, spaced(sample.input_data)), el("span", {}, sample.difficulty_level), el("span", {}, json ? "JSON" : spaced(sample.output_format)), el("span", {}, scores)),
    el("div", { class: "body" }, el("div", { class: "instruction" }, sample.instruction), part("input", false), part("output", json)));
}

function drawSamples() {
  if (!data.samples.length) return;
  const list = el("div", {});
  let [task, shown] = ["", 4];
  const more = el("button", { class: "more", type: "button", onclick: () => { shown += 8; show(); } }, "more");
  function show() {
    const found = data.samples.filter((sample) => !task || sample.task_type === task);
    list.replaceChildren(...found.slice(0, shown).map(article));
    more.hidden = found.length <= shown;
    more.textContent = `more (${found.length - shown} left)`;
  }
  show();
  section("samples", "Rows to read", "Kept rows, spread over the cells, the best first.", el("div", { class: "bar" }, picker("task", [["", "all tasks"], ...TASKS.map((one) => [one, spaced(one)])], (value) => { task = value; shown = 4; show(); })), list, more);
}

// --- map ---
function drawMap() {
  const points = data.points;
  if (!points) return;
  const groupOf = Object.fromEntries(data.drops.map((drop) => [drop.reason, drop.group]));
  const colourings = {
    task: { values: TASKS, of: (at) => points.task_type[at], colour: (value) => TASK_COLOURS[TASKS.indexOf(value) % TASK_COLOURS.length] },
    decision: { values: ["kept", ...new Set(data.drops.map((drop) => drop.group))], of: (at) => (points.decision[at] === "kept" ? "kept" : groupOf[points.decision[at]] || "other"), colour: (value) => (value === "kept" ? "#0e8a7d" : GROUP_COLOURS[value] || "#6b7280") },
  };
  const canvas = el("canvas", { role: "img", "aria-label": "map of the rows by what they say" });
  const key = el("ul", { class: "key" });
  let [mode, only, hovered] = ["task", null, -1];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const [spanX, spanY] = [Math.max(1, ...points.x), Math.max(1, ...points.y)];
  const at = (place, box) => {
    const fit = Math.min((box.width - 24) / spanX, (box.height - 24) / spanY);
    return [(box.width - spanX * fit) / 2 + points.x[place] * fit, (box.height - spanY * fit) / 2 + (spanY - points.y[place]) * fit];
  };
  function paint() {
    const box = { width: canvas.clientWidth || 1150, height: Math.min(640, Math.max(320, ((canvas.clientWidth || 1150) * spanY) / spanX)) };
    const ratio = devicePixelRatio || 1;
    canvas.style.height = `${box.height}px`;
    canvas.width = box.width * ratio;
    canvas.height = box.height * ratio;
    const ink = canvas.getContext("2d");
    ink.scale(ratio, ratio);
    const { of, colour } = colourings[mode];
    points.x.forEach((_, place) => {
      const value = of(place);
      const [x, y] = at(place, box);
      ink.globalAlpha = only !== null && only !== value ? 0.06 : dark.matches ? 0.85 : 0.7;
      ink.fillStyle = colour(value);
      ink.beginPath();
      ink.arc(x, y, place === hovered ? 6 : 2.6, 0, 7);
      ink.fill();
    });
  }
  function keys() {
    const { values, of, colour } = colourings[mode];
    const counts = new Map();
    points.x.forEach((_, place) => counts.set(of(place), (counts.get(of(place)) || 0) + 1));
    key.replaceChildren(...values.filter((value) => counts.get(value)).map((value) => el("li", {}, el("button", { type: "button", "aria-pressed": String(only === null || only === value), onclick: () => { only = only === value ? null : value; keys(); paint(); } }, el("i", { style: `--c:${colour(value)}` }), `${spaced(value)} ${number(counts.get(value))}`))));
  }
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    let [nearest, distance] = [-1, 120];
    points.x.forEach((_, place) => {
      if (only !== null && colourings[mode].of(place) !== only) return;
      const [x, y] = at(place, box);
      const apart = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (apart < distance) [nearest, distance] = [place, apart];
    });
    if (nearest !== hovered) { hovered = nearest; paint(); }
    if (nearest < 0) hideTip();
    else showTip(event, `${spaced(points.task_type[nearest])} · ${spaced(points.input_data[nearest])} · ${spaced(points.decision[nearest])}\n${points.text[nearest]}`);
  });
  canvas.addEventListener("mouseleave", () => { hovered = -1; hideTip(); paint(); });
  section("map", "A map of what rows say", `${number(points.x.length)} rows as points; rows that say alike lie near one another. Click a name to see it alone.`, el("div", { class: "bar" }, choice("colour by", [["task", "by task"], ["decision", "by decision"]], "task", (value) => { mode = value; only = null; keys(); paint(); })), el("div", { class: "card" }, canvas), key);
  keys();
  paint();
  addEventListener("resize", paint);
  dark.addEventListener("change", paint);
}

// --- tables ---
function drawTables() {
  const benchmarks = Object.entries(data.contamination);
  const names = [...new Set(benchmarks.flatMap(([, counts]) => Object.keys(counts)))];
  const words = { texts: "texts", ngram: "rows out: long sequence", containment: "rows out: most of a text", templates: "templates, not looked for", unprotected: "items too short to tell", near_duplicate: "rows out: near duplicate" };
  section("contamination", "Test data kept out", benchmarks.length ? "Rows that hold a long sequence, or most, of a benchmark's text went. Templates are phrases that so many rows hold that they are no sign of a copy; items too short cannot be told from coincidence." : "No blocklist was given: rows were not compared with any benchmark.",
    benchmarks.length ? table(["benchmark", ...names.map((name) => words[name] || spaced(name))], benchmarks.map(([name, counts]) => [name, ...names.map((one) => counts[one] ?? "–")])) : null);
  const check = data.facts.verification;
  if (check) {
    const kinds = Object.entries(check.by_kind || {});
    section("facts", "Facts against the patient", `${number(check.checked)} statements${check.rows ? ` of ${number(check.rows)} kept rows` : ""} were compared with what is known of the patient; ${number(check.contradicted)} contradict it (${percent(check.contradicted, check.checked)}). A statement about what is not known is no contradiction.`,
      kinds.length ? table(["kind", "checked", "contradicted", "share", ""], kinds.map(([kind, one]) => [spaced(kind), one.checked ?? "–", one.contradicted ?? one, one.checked ? percent(one.contradicted, one.checked) : "–", bar(one.contradicted ?? one, one.checked || check.contradicted, true)])) : null);
  }
  const teachers = Object.entries(data.facts.teachers || {});
  if (teachers.length) {
    const columns = [...new Set(teachers.flatMap(([, one]) => Object.keys(one)))];
    const all = teachers.reduce((sum, [, one]) => sum + (one.rows || 0), 0);
    section("teachers", "Teachers", "Who wrote how much, how much of it was kept, and what it cost.", table(["teacher", ...columns.map(spaced), "share of rows", ""], teachers.map(([name, one]) => [name, ...columns.map((column) => one[column] ?? "–"), percent(one.rows || 0, all), bar(one.rows || 0, all)])));
  } else if (data.facts.teacher) {
    section("teachers", "Teacher", `All rows were written by ${data.facts.teacher}.`);
  }
}

drawHead();
drawFunnel();
drawHistograms();
drawCoverage();
drawSamples();
drawMap();
drawTables();

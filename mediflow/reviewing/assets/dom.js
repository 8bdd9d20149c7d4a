// Elements from data. Everything that comes from a row is set as text: rows hold whatever a teacher wrote.

export function el(tag, options, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what an element holds; null and false stand for nothing. */
export const fill = (into, ...children) => into.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));

export const spaced = (name) => String(name ?? "").replaceAll("_", " ");
export const number = (value) => Number(value).toLocaleString("en", { maximumFractionDigits: 2 });
export const byId = (id) => document.getElementById(id);

let hiding = 0;
export function toast(message, bad) {
  const box = byId("toast");
  box.textContent = message;
  box.className = bad ? "bad" : "";
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { box.hidden = true; }, bad ? 6000 : 1600);
}

/** JSON laid out anew without reading its values: 1.0 stays 1.0. Returns the text itself where it is not JSON. */
export function layout(text, wide) {
  try { JSON.parse(text); } catch { return text; }
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g) || [];
  let [depth, out] = [0, ""];
  const line = () => (wide ? `\n${"  ".repeat(depth)}` : "");
  tokens.forEach((token, at) => {
    const empty = at && /[[{]/.test(tokens[at - 1]) && tokens[at - 1].length === 1;
    if (token === "{" || token === "[") {
      depth += 1;
      out += token + (/^[\]}]$/.test(tokens[at + 1]) ? "" : line());
    } else if (token === "}" || token === "]") {
      depth -= 1;
      out += (empty ? "" : line()) + token;
    } else if (token === ",") out += wide ? `,${line()}` : ", ";
    else if (token === ":") out += ": ";
    else out += token;
  });
  return out;
}

/** Pieces of a word diff as elements: only those of one side, or of both. */
export function pieces(diff, side) {
  return diff.filter(([sign]) => sign === "=" || side === "both" || sign === side)
    .map(([sign, text]) => (sign === "=" ? text : el(sign === "+" ? "ins" : "del", {}, text)));
}

// Elements, made by nodes and textContent alone: no text that comes from a model, a document or a person
// is ever read as markup.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function button(text, onclick, properties = {}) {
  return el("button", { type: "button", onclick, ...properties }, text);
}

// A labelled field: the label's text stands before the control.
export function field(label, control, hint) {
  return el("label", { class: "field", title: hint }, el("span", {}, label), control);
}

export function notice(message) {
  const place = document.getElementById("notice");
  place.hidden = !message;
  place.replaceChildren();
  if (message) place.append(message, button("Close", () => notice(""), { class: "quiet" }));
}

// Say to a screen reader.
export function speak(message) {
  document.getElementById("spoken").textContent = message;
}

export function remembered(storage, name, otherwise) {
  try {
    return JSON.parse(storage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function save(filename, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  el("a", { href: address, download: filename }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export const number = (value, digits = 4) =>
  value === null || value === undefined || !Number.isFinite(value) ? "-" : String(Number(value.toPrecision(digits)));

export const newId = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
};

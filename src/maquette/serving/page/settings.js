// Parameters of generation: what the API takes, kept in this browser. An empty field is not sent.

import { el, field, remembered } from "./dom.js";

const NAME = "maquette/settings";
const NUMBERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.05 }, "0: always the likeliest token; 1: as the model says"],
  ["top_p", "Top-p", { min: 0.01, max: 1, step: 0.01 }, "Only the likeliest tokens that together have this probability"],
  ["top_k", "Top-k", { min: 1, step: 1 }, "Only so many of the likeliest tokens"],
  ["min_p", "Min-p", { min: 0, max: 1, step: 0.01 }, "Only tokens at least this share as likely as the likeliest"],
  ["repetition_penalty", "Repetition penalty", { min: 0.05, max: 10, step: 0.05 }, "Above 1: tokens of the text so far become less likely"],
  ["presence_penalty", "Presence penalty", { min: -2, max: 2, step: 0.1 }, "Taken off the logit of each token that was written"],
  ["frequency_penalty", "Frequency penalty", { min: -2, max: 2, step: 0.1 }, "Taken off the logit for each time a token was written"],
  ["seed", "Seed", { min: 0, step: 1 }, "The same seed writes the same text; empty: another one each time"],
  ["max_tokens", "Most tokens", { min: 1, step: 1 }, "Empty: as many as the context has room for"],
];

export const settings = remembered(localStorage, NAME, { temperature: 0.8 });
const listeners = [];

export function change(name, value) {
  if (value === null || value === "" || Number.isNaN(value)) delete settings[name];
  else settings[name] = value;
  localStorage.setItem(NAME, JSON.stringify(settings));
  for (const listener of listeners) listener(name);
}

export const changed = (listener) => listeners.push(listener);

// The fields of a request's body; the seed is always said, so that every answer can be made again.
export function parameters() {
  const body = { seed: settings.seed ?? Math.floor(Math.random() * 2 ** 31) };
  for (const [name] of NUMBERS) if (name !== "seed" && settings[name] !== undefined) body[name] = settings[name];
  const stop = (settings.stop ?? "").split("\n").filter(Boolean);
  if (stop.length) body.stop = stop.map((one) => one.replaceAll("\\n", "\n"));
  return body;
}

// The weights of a run's adapters that were set, by the adapter's name.
export function weights(run) {
  const set = settings[`adapters/${run.id}`] ?? {};
  return Object.fromEntries((run.maquette.adapters ?? []).filter((name) => name in set).map((name) => [name, set[name]]));
}

export function settingsForm() {
  const fields = NUMBERS.map(([name, label, limits, hint]) => {
    const input = el("input", {
      type: "number", name, inputmode: "decimal", placeholder: "-", value: settings[name] ?? "", ...limits,
      oninput: () => input.checkValidity() && change(name, input.value === "" ? null : Number(input.value)),
    });
    return field(label, input, hint);
  });
  const stop = el("textarea", { name: "stop", rows: 2, value: settings.stop ?? "", oninput: () => change("stop", stop.value) });
  const toggle = (name, label, hint) => {
    const input = el("input", { type: "checkbox", name, onchange: () => change(name, input.checked) });
    input.checked = settings[name] ?? true;
    return el("label", { class: "check", title: hint }, input, label);
  };
  return el("form", { class: "settings", "aria-label": "Parameters", onsubmit: (event) => event.preventDefault() },
    el("h2", {}, "Parameters"), fields,
    field("Stop strings", stop, "One a line; \\n stands for the end of a line"),
    el("h2", {}, "Show"),
    toggle("surprise", "Colour by surprise", "The darker, the less likely the token was"),
    toggle("markdown", "Markdown in chats", "Off: the text as it is written"));
}

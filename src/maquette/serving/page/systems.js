// Systems: the catalogue, its claims with what was measured, and trials at toy size.

import { get, getBlob, post } from "./api.js";
import { button, el, notice } from "./dom.js";

const EVERY = 1000; // milliseconds

export class Systems {
  constructor() {
    this.filter = el("input", { type: "search", placeholder: "Search", "aria-label": "Search systems", oninput: () => this.draw() });
    this.list = el("div", { class: "systems" });
    this.trial = el("div", { class: "trial", hidden: true });
    this.element = el("section", { class: "view", "aria-label": "Systems" }, el("h1", {}, "Systems"),
      el("p", { class: "quiet" }, "Published systems as scale models. A claim holds when it meets the threshold that was fixed before it was measured, and its negative control does not."),
      this.filter, this.trial, this.list);
  }

  async entered() {
    this.here = true;
    try {
      const found = this.systems ? null : await get("systems");
      if (found) [this.systems, this.trials] = [found.systems, found.trials];
      if (found) this.draw();
      if (this.trials) await this.watch();
    } catch (error) {
      notice(error.message);
    }
  }

  left() {
    this.here = false;
    clearTimeout(this.next);
  }

  draw() {
    const word = this.filter.value.toLowerCase();
    const chosen = (this.systems ?? []).filter((one) => `${one.name} ${one.doc}`.toLowerCase().includes(word));
    this.list.replaceChildren(...chosen.map((system) => this.system(system)));
    if (!chosen.length) this.list.append(el("p", { class: "quiet" }, "No system has that word."));
  }

  system(system) {
    const counts = ["holds", "fails", "not measured"].map((state) => [state, system.claims.filter((claim) => claim.state === state).length]);
    const summary = counts.filter(([, count]) => count).map(([state, count]) => el("span", { class: `state ${state.replace(" ", "-")}` }, `${count} ${count > 1 && state === "holds" ? "hold" : count > 1 && state === "fails" ? "fail" : state}`));
    const element = el("details", {}, el("summary", {}, el("code", {}, system.name), " ", system.title.replace(/\.$/, ""), " ", summary));
    element.addEventListener("toggle", () => element.open && element.children.length === 1 && element.append(...this.body(system)), { once: false });
    return element;
  }

  body(system) {
    const start = this.trials && system.claims.length > 0 && button("Try at toy size", () => this.start(system.name), { title: `maquette reproduce ${system.name} --quick: no evidence, but all of its code runs` });
    const commands = el("p", { class: "quiet" }, system.recipes.length ? `Recipes: ${system.recipes.join(", ")}` : "");
    return [el("pre", { class: "doc", tabindex: "0" }, system.doc), commands, start, ...system.claims.map((claim) => this.claim(claim))].filter(Boolean);
  }

  claim(claim) {
    const picture = el("img", { alt: `Measured: ${claim.id}`, class: "claim", hidden: true });
    if (claim.picture) this.show(picture, claim.id);
    const measured = claim.measured === null ? `maquette reproduce ${claim.id}: about ${claim.minutes} minutes`
      : `${claim.metric}: ${claim.measured}, ${claim.wanted} wanted; ${claim.control}: ${claim.control_measured}. ${claim.evidence}, ${claim.date}.`;
    return el("section", { class: "claim" }, el("h3", {}, el("span", { class: `state ${claim.state.replace(" ", "-")}` }, claim.state), " ", el("code", {}, claim.id)),
      el("p", {}, `${claim.statement} (${claim.source})`), el("p", { class: "quiet" }, measured), picture);
  }

  async show(picture, claim) {
    try {
      picture.src = URL.createObjectURL(await getBlob(`systems/${encodeURIComponent(claim)}/picture`));
      picture.hidden = false;
    } catch (error) {
      picture.replaceWith(el("p", { class: "error" }, error.message));
    }
  }

  async start(system) {
    try {
      this.drawTrial(await post("trial", { system }));
      this.watch();
    } catch (error) {
      notice(error.message);
    }
  }

  async watch() {
    clearTimeout(this.next);
    const state = await get("trial");
    this.drawTrial(state);
    if (this.here && state.running) this.next = setTimeout(() => this.watch().catch((error) => notice(error.message)), EVERY);
  }

  drawTrial(state) {
    this.trial.hidden = !state.system;
    const word = state.running ? "under way" : state.code === 0 ? "finished" : `ended with ${state.code}`;
    this.trial.replaceChildren(el("h2", {}, `Trial of ${state.system}: ${word}`), el("pre", { tabindex: "0", "aria-label": "Output" }, state.lines.join("\n")));
  }
}

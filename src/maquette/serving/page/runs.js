// Runs: the trainings beside the served runs, with curves that grow while they are trained.

import { get, getBlob, key } from "./api.js";
import { chart } from "./chart.js";
import { button, el, notice, number, save } from "./dom.js";

const EVERY = 2000; // milliseconds
const CLOSED = ["gated", "unreadable"]; // states of runs of which nothing is shown
const CHARTS = [["loss", "Loss"], ["heldout_loss", "Held-out loss"], ["learning_rate", "Learning rate"], ["gradient_norm", "Gradient norm"]];

export class Runs {
  constructor() {
    this.rows = [];
    this.chosen = null;
    this.records = new Map(); // by run: {after, steps}
    this.table = el("div", { class: "wide" });
    this.charts = el("div", { class: "charts" });
    this.element = el("section", { class: "view", "aria-label": "Runs" }, el("h1", {}, "Runs"),
      el("p", { class: "quiet" }, "Trainings beside the served runs, the latest first. What is ticked is drawn, and followed while it is trained."), this.table, this.charts);
  }

  entered() {
    this.here = true;
    this.poll();
  }

  left() {
    this.here = false;
    clearTimeout(this.next);
  }

  async poll() {
    clearTimeout(this.next);
    try {
      await this.refresh();
    } catch (error) {
      notice(error.message);
    }
    if (this.here) this.next = setTimeout(() => (document.hidden ? this.poll_later() : this.poll()), EVERY);
  }

  poll_later() {
    document.addEventListener("visibilitychange", () => this.here && this.poll(), { once: true });
  }

  async refresh() {
    const { runs } = await get("runs");
    this.rows = runs;
    const begun = runs.filter((run) => run.step > 0);
    this.chosen ??= new Set((begun.length ? begun : runs).slice(0, 1).map((run) => run.name));
    const grown = await Promise.all([...this.chosen].map((name) => this.read(name)));
    const shown = JSON.stringify(runs);
    if (shown !== this.shown) this.drawTable();
    if (grown.some(Boolean) || this.changed) this.drawCharts();
    this.shown = shown;
    this.changed = false;
  }

  // Read what a run has logged since the last time; of a step taken twice, the later one.
  async read(name) {
    if (!this.rows.some((run) => run.name === name && !CLOSED.includes(run.state))) return false;
    const known = this.records.get(name) ?? { after: 0, steps: [] };
    let grown = false;
    for (;;) {
      const { start, after, records } = await get(`runs/${encodeURIComponent(name)}/metrics?after=${known.after}`);
      if (start < known.after) known.steps = [];
      for (const record of records) {
        if (record.step === undefined || record.event !== undefined) continue;
        while (known.steps.length && known.steps[known.steps.length - 1].step >= record.step) known.steps.pop();
        known.steps.push(record);
      }
      grown ||= after !== known.after;
      const more = after > known.after;
      known.after = after;
      this.records.set(name, known);
      if (!more || records.length < 1000) return grown;
    }
  }

  drawTable() {
    const titles = ["", "Run", "State", "Step", "Loss", "Held out", "A second", "Report"];
    const row = (run, n) => {
      const box = el("input", { type: "checkbox", "aria-label": `Draw ${run.name}`, disabled: CLOSED.includes(run.state), onchange: () => this.choose(run.name, box.checked) });
      box.checked = this.chosen.has(run.name);
      const path = `runs/${encodeURIComponent(run.name)}/report`;
      const report = !run.report ? "" : key() ? button("Save", () => this.saveReport(path, run.name))
        : el("a", { href: path, target: "_blank", rel: "noopener" }, "Report");
      return el("tr", { class: `c${n % 6}` }, el("td", {}, box), el("td", {}, el("span", { class: "swatch" }), run.name), el("td", {}, run.state),
        el("td", {}, run.steps ? `${run.step.toLocaleString("en")} / ${run.steps.toLocaleString("en")}` : ""), el("td", {}, number(run.loss)), el("td", {}, number(run.heldout_loss)),
        el("td", {}, run.tokens_per_second ? `${Math.round(run.tokens_per_second).toLocaleString("en")} ${run.unit}` : ""), el("td", {}, report));
    };
    this.table.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, titles.map((title) => el("th", {}, title)))), el("tbody", {}, this.rows.map(row))));
  }

  async saveReport(path, name) {
    save(`${name}.html`, "text/html", await getBlob(path));
  }

  choose(name, on) {
    if (on) this.chosen.add(name);
    else this.chosen.delete(name);
    this.changed = true;
    this.poll();
  }

  drawCharts() {
    const drawn = this.rows.map((run, n) => ({ run, colour: n })).filter(({ run }) => this.chosen.has(run.name));
    this.charts.replaceChildren(...CHARTS.map(([name, title]) => chart(title, "step", drawn.map(({ run, colour }) => ({
      name: run.name, colour, points: (this.records.get(run.name)?.steps ?? []).filter((one) => Number.isFinite(one[name])).map((one) => [one.step, one[name]]),
    })))));
  }
}

// A mask that is painted over a picture, by a pointer or the keyboard. What is painted is made anew: it is
// transparent in the mask that is sent, as OpenAI's API has it.

import { el } from "./dom.js";

const SHOWN = 320; // CSS pixels of the wider side

export class Mask {
  constructor(image) {
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const make = () => Object.assign(document.createElement("canvas"), { width, height });
    this.picture = make();
    this.picture.getContext("2d").drawImage(image, 0, 0);
    this.painted = make();
    this.canvas = make();
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "Picture to paint a mask on");
    const scale = SHOWN / Math.max(width, height);
    this.canvas.style.width = `${Math.round(width * scale)}px`;
    this.cursor = [width / 2, height / 2];
    this.size = el("input", { type: "range", min: 1, max: Math.max(2, Math.round(width / 2)), step: 1, value: String(Math.max(1, Math.round(width / 6))) });
    this.size.value = String(Math.max(1, Math.round(width / 6)));
    this.element = el("div", { class: "canvas" }, this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => { this.canvas.setPointerCapture(event.pointerId); this.move(event, true); });
    this.canvas.addEventListener("pointermove", (event) => this.move(event, event.buttons & 1));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("focus", () => this.draw());
    this.canvas.addEventListener("blur", () => this.draw());
    this.draw();
  }

  move(event, paints) {
    const box = this.canvas.getBoundingClientRect();
    const from = this.cursor;
    this.cursor = [((event.clientX - box.left) / box.width) * this.canvas.width, ((event.clientY - box.top) / box.height) * this.canvas.height];
    if (paints) this.paint(event.type === "pointerdown" ? this.cursor : from);
    this.draw();
  }

  press(event) {
    const step = Math.max(1, this.canvas.width / 16);
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (way) this.cursor = this.cursor.map((at, axis) => Math.max(0, Math.min([this.canvas.width, this.canvas.height][axis], at + way[axis])));
    else if (event.key === " ") this.paint(this.cursor);
    else return;
    event.preventDefault();
    this.draw();
  }

  paint(from) {
    const context = this.painted.getContext("2d");
    context.lineCap = "round";
    context.strokeStyle = "#0b5c73";
    context.lineWidth = Number(this.size.value);
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(this.cursor[0] + 0.01, this.cursor[1]);
    context.stroke();
  }

  clear() {
    this.painted.getContext("2d").clearRect(0, 0, this.painted.width, this.painted.height);
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    context.drawImage(this.picture, 0, 0);
    context.globalAlpha = 0.75;
    context.drawImage(this.painted, 0, 0);
    context.globalAlpha = 1;
    if (document.activeElement !== this.canvas) return;
    context.strokeStyle = "#0b5c73";
    context.lineWidth = Math.max(1, this.canvas.width / SHOWN);
    context.beginPath();
    context.arc(...this.cursor, Number(this.size.value) / 2, 0, 2 * Math.PI);
    context.stroke();
  }

  // The mask: opaque where the picture stays, transparent where it is made anew.
  holes() {
    const mask = Object.assign(document.createElement("canvas"), { width: this.canvas.width, height: this.canvas.height });
    const context = mask.getContext("2d");
    context.fillRect(0, 0, mask.width, mask.height);
    context.globalCompositeOperation = "destination-out";
    context.drawImage(this.painted, 0, 0);
    const pixels = context.getImageData(0, 0, mask.width, mask.height);
    for (let n = 3; n < pixels.data.length; n += 4) pixels.data[n] = pixels.data[n] < 128 ? 0 : 255; // no half-tones at the brush's edge
    context.putImageData(pixels, 0, 0);
    return mask;
  }
}

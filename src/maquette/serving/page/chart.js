// A line chart as SVG: series of {name, points: [[x, y]]}, of long ones a mean for each of so many places.

import { el, number, svg } from "./dom.js";

const MOST = 400;
const WIDTH = 640;
const HEIGHT = 240;
const LEFT = 52;
const BOTTOM = 24;

function thinned(points) {
  if (points.length <= MOST) return points;
  const size = points.length / MOST;
  return Array.from({ length: MOST }, (_, n) => {
    const part = points.slice(Math.floor(n * size), Math.floor((n + 1) * size));
    return [0, 1].map((axis) => part.reduce((sum, point) => sum + point[axis], 0) / part.length);
  });
}

// Round values between two, about so many.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(at);
  return found;
}

export function chart(title, xTitle, series) {
  const kept = series.map((one) => ({ ...one, points: thinned(one.points) })).filter((one) => one.points.length);
  const all = kept.flatMap((one) => one.points);
  if (!all.length) return el("p", { class: "quiet" }, `${title}: nothing yet`);
  const range = (axis) => {
    const values = all.map((point) => point[axis]);
    const low = Math.min(...values);
    const high = Math.max(...values);
    return low === high ? [low - 0.5, high + 0.5] : [low, high];
  };
  const [[x0, x1], [y0, y1]] = [range(0), range(1)];
  const x = (value) => LEFT + ((value - x0) / (x1 - x0)) * (WIDTH - LEFT - 8);
  const y = (value) => HEIGHT - BOTTOM - ((value - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - 10);
  const text = (at, content, anchor) => {
    const element = svg("text", { x: at[0], y: at[1], "text-anchor": anchor });
    element.textContent = content;
    return element;
  };
  const grid = [
    ...ticks(y0, y1, 4).flatMap((at) => [svg("line", { x1: LEFT, x2: WIDTH - 8, y1: y(at), y2: y(at) }), text([LEFT - 6, y(at) + 4], number(at), "end")]),
    ...ticks(x0, x1, 6).map((at) => text([x(at), HEIGHT - 6], at.toLocaleString("en"), "middle")),
  ];
  const lines = kept.map((one) => svg("path", { class: `line c${one.colour % 6}${one.dashed ? " dashed" : ""}`, d: one.points.map((point, n) => `${n ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("") }));
  const latest = kept.map((one) => `${one.name} ${number(one.points[one.points.length - 1][1])}`).join(", ");
  return el("figure", { class: "chart" },
    el("figcaption", {}, title, el("span", { class: "quiet" }, ` by ${xTitle}`)),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by ${xTitle}: ${latest}` }, ...grid, ...lines));
}

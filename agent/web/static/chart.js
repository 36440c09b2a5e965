// A line chart of one day: minutes without a sample are gaps, because nothing was known then.

import { svg, el } from "./format.js";

const width = 420, height = 130, left = 64, right = 6, top = 8, bottom = 18;

// nice rounds up to 1, 2 or 5 times a power of ten.
const nice = (v) => {
  if (!(v > 0)) return 1;
  const p = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 5, 10].map((m) => m * p).find((x) => x >= v * 0.999);
};

// chart draws lines ({name, class, points: [[ms, value], ...]}) and perhaps a band ([[ms, low, high], ...]) over the given time.
export const chart = ({ title, format, from, to, step, lines, band, max }) => {
  const all = [...lines.flatMap((l) => l.points.map((p) => p[1])), ...(band || []).map((b) => b[2])];
  const caption = el("figcaption", {}, title, ...lines.filter((l) => l.name).flatMap((l) => [el("span", { class: `key ${l.class}` }), l.name]));
  if (!all.length) return el("figure", {}, caption, el("p", { class: "empty" }, "nothing recorded yet"));
  const peak = max || nice(Math.max(...all));
  const x = (t) => left + ((width - left - right) * (t - from)) / (to - from);
  const y = (v) => top + (height - top - bottom) * (1 - Math.min(v, peak) / peak);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": describe(title, format, lines) });
  for (const part of [0, 0.5, 1]) {
    const at = y(peak * part);
    root.append(svg("line", { x1: left, x2: width - right, y1: at, y2: at, class: "axis" }), svg("text", { x: left - 5, y: at + 3.5, "text-anchor": "end" }, format(peak * part)));
  }
  const hours = (to - from) / 3.6e6, every = hours > 12 ? 6 : hours > 4 ? 2 : hours > 1.5 ? 1 : 0.25;
  for (let t = Math.ceil(from / (every * 3.6e6)) * every * 3.6e6; t < to; t += every * 3.6e6) {
    root.append(svg("text", { x: x(t), y: height - 4, "text-anchor": "middle" }, new Date(t).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" })));
  }
  for (const run of runs(band || [], step)) {
    const path = "M" + run.map((b) => `${x(b[0]).toFixed(1)} ${y(b[2]).toFixed(1)}`).join("L") + "L" + run.reverse().map((b) => `${x(b[0]).toFixed(1)} ${y(b[1]).toFixed(1)}`).join("L") + "Z";
    root.append(svg("path", { d: path, class: "band" }));
  }
  for (const line of lines) {
    for (const run of runs(line.points, step)) {
      const path = "M" + run.map((p) => `${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("L") + (run.length === 1 ? "h1.5" : "");
      root.append(svg("path", { d: path, class: `line ${line.class}` }));
    }
  }
  return el("figure", {}, caption, root);
};

const runs = (points, step) => {
  const out = [];
  points.forEach((p, i) => {
    if (i === 0 || p[0] - points[i - 1][0] > 2.5 * step) out.push([]);
    out.at(-1).push(p);
  });
  return out;
};

const describe = (title, format, lines) =>
  lines.filter((l) => l.points.length).map((l) => {
    const v = l.points.map((p) => p[1]);
    return `${title}${l.name ? ", " + l.name : ""}: lowest ${format(Math.min(...v))}, highest ${format(Math.max(...v))}, newest ${format(v.at(-1))}`;
  }).join("; ");

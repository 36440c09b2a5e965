// The map: this node in the middle, members around it, the nearer the faster (logarithmic), those without a link outside.

import { svg, mark, health, summary } from "./format.js";

const size = 640, middle = size / 2;
const near = 70, far = 235, outside = 285; // distances from the middle
const rings = [[0.001, "1 ms"], [0.01, "10 ms"], [0.1, "100 ms"], [1, "1 s"]];

// distance puts 0.1 ms at near and 1 s at far.
const distance = (rtt) => near + (far - near) * Math.min(1, Math.max(0, (Math.log10(Math.max(rtt, 1e-4)) + 4) / 4));

// place says where a member's name stands: beside it, away from the middle; above it and towards the middle where it stands at the map's edge.
const place = (kind, r, angle) => {
  const left = Math.cos(angle) < -0.2, right = Math.cos(angle) > 0.2, above = Math.sin(angle) < 0 ? -r - 6 : r + 15;
  if (kind === "bad" && (left || right)) return { x: left ? -r : r, y: above, "text-anchor": left ? "start" : "end" };
  return { x: left ? -r - 5 : right ? r + 5 : 0, y: left || right ? 4 : above, "text-anchor": left ? "end" : right ? "start" : "middle" };
};

export class Map {
  constructor(parent, choose) {
    this.choose = choose;
    this.nodes = new globalThis.Map(); // by ID
    this.root = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "group", "aria-label": "Map of this node's links", "aria-describedby": "map-hint" });
    const back = svg("g", { "aria-hidden": "true" }), labels = svg("g", { "aria-hidden": "true" });
    for (const [rtt, label] of rings) {
      back.append(svg("circle", { cx: middle, cy: middle, r: distance(rtt), class: "ring" }));
      labels.append(svg("text", { x: middle, y: middle - distance(rtt) + 4, class: "ring-label" }, label));
    }
    this.edges = svg("g", { "aria-hidden": "true" });
    this.dots = svg("g");
    this.myName = svg("text", { y: 26 });
    this.root.append(back, this.edges, this.dots, labels, svg("g", { class: "me", transform: `translate(${middle} ${middle})`, "aria-hidden": "true" }, svg("circle", { r: 9 }), this.myName));
    this.root.addEventListener("keydown", (e) => this.key(e));
    parent.append(this.root);
  }

  draw(self, peers, chosen) {
    this.myName.textContent = self.name || "this machine";
    const sorted = [...peers].sort((a, b) => a.name.localeCompare(b.name));
    this.order = sorted.map((p) => p.id);
    const many = sorted.length > 40, r = sorted.length > 120 ? 4 : many ? 5 : 7;
    for (const [id, n] of this.nodes) {
      if (!sorted.some((p) => p.id === id)) { n.group.remove(); n.edge.remove(); this.nodes.delete(id); }
    }
    sorted.forEach((p, i) => {
      let n = this.nodes.get(p.id);
      if (!n) {
        n = { edge: svg("line"), group: svg("g", { tabindex: "-1", role: "button" }) };
        n.group.addEventListener("click", () => this.choose(p.id, true));
        n.group.addEventListener("focus", () => this.rove(p.id));
        this.nodes.set(p.id, n);
        this.edges.append(n.edge);
        this.dots.append(n.group);
      }
      const kind = health(p), angle = (2 * Math.PI * (i + 0.5)) / sorted.length - Math.PI / 2;
      // Members without a link stand outside, in two rows where they are many, so that they do not cover each other.
      const d = kind === "bad" ? outside + (many ? (i % 2) * 16 : 0) : distance(p.rtt_seconds || 1e-4);
      const x = middle + d * Math.cos(angle), y = middle + d * Math.sin(angle);
      // Many lines that all meet in one point would be one blot.
      const from = sorted.length > 80 ? near * 0.6 : 0, x1 = middle + from * Math.cos(angle), y1 = middle + from * Math.sin(angle);
      for (const [k, v] of Object.entries({ x1, y1, x2: x, y2: y, class: `edge ${kind}` })) n.edge.setAttribute(k, v);
      n.edge.setAttribute("stroke-opacity", many ? 0.45 : 0.9);
      n.group.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      n.group.setAttribute("class", `node ${p.id === chosen ? "chosen" : ""}`);
      n.group.setAttribute("aria-label", summary(p));
      n.group.setAttribute("aria-pressed", p.id === chosen);
      const look = `${kind} ${r} ${p.name} ${many} ${angle}`;
      if (n.look !== look) {
        n.look = look;
        const label = svg("text", { ...place(kind, r, angle), class: many && kind !== "bad" && kind !== "warn" || sorted.length > 120 ? "far" : "", "aria-hidden": "true" }, p.name);
        n.group.replaceChildren(svg("circle", { r: r + 6, class: "halo" }), mark(kind, r), label, svg("title", {}, ""));
      }
      n.group.lastChild.textContent = summary(p);
    });
    if (!this.nodes.has(this.stop)) this.stop = this.order[0];
    this.rove(this.stop);
  }

  // rove makes one member the map's only tab stop (the roving tabindex of the ARIA practices): with 300 members, 300 stops would be a wall.
  rove(id) {
    this.nodes.get(this.stop)?.group.setAttribute("tabindex", "-1");
    this.stop = id;
    this.nodes.get(id)?.group.setAttribute("tabindex", "0");
  }

  key(e) {
    const at = this.order.indexOf(this.stop), n = this.order.length;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    if (step) this.nodes.get(this.order[(at + step + n) % n])?.group.focus();
    else if (e.key === "Home") this.nodes.get(this.order[0])?.group.focus();
    else if (e.key === "End") this.nodes.get(this.order[n - 1])?.group.focus();
    else if (e.key === "Enter" || e.key === " ") this.choose(this.stop, true);
    else return;
    e.preventDefault();
  }
}

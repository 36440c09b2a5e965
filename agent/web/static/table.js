// The table of members: sorted by any column, filtered by any word.

import { el, svg, mark, health, seconds, bytes, rate, percent, pathText, stateText } from "./format.js";

const rank = { bad: 0, warn: 1, relay: 2, good: 3, idle: 4 };
const columns = [
  { name: "Name", of: (p) => p.name, cell: (p, t) => nameCell(p, t) },
  { name: "State", of: (p) => rank[health(p)], cell: (p) => stateCell(p) },
  { name: "Path", of: (p) => pathText(p), cell: (p) => el("td", {}, pathText(p)) },
  { name: "Round trip", num: true, of: (p) => p.rtt_seconds || Infinity, cell: (p) => num(seconds(p.rtt_seconds)) },
  { name: "Loss", num: true, of: (p) => p.loss_ratio, cell: (p) => num(p.state === "connected" ? percent(p.loss_ratio) : "–") },
  { name: "In", num: true, of: (p) => p.rate?.rx || 0, cell: (p) => num(rate(p.rate?.rx || 0)) },
  { name: "Out", num: true, of: (p) => p.rate?.tx || 0, cell: (p) => num(rate(p.rate?.tx || 0)) },
  { name: "Received", num: true, of: (p) => p.receive_bytes, cell: (p) => num(bytes(p.receive_bytes)) },
  { name: "Sent", num: true, of: (p) => p.transmit_bytes, cell: (p) => num(bytes(p.transmit_bytes)) },
];

const num = (text) => el("td", { class: "num" }, text);

const nameCell = (p, t) =>
  el("td", {}, el("button", { class: "name", onclick: () => t.choose(p.id, true) }, p.name),
    ...(p.issuer ? [el("span", { class: "tag", title: "lets others in" }, "issuer")] : []), ...p.tags.slice(0, 3).map((tag) => el("span", { class: "tag" }, tag)));

const stateCell = (p) =>
  el("td", {}, el("span", { class: "state", title: p.reason || "" }, svg("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" }, mark(health(p), 5)), stateText(p)));

export class Table {
  constructor(table, filter, count, choose) {
    this.choose = choose;
    this.body = table.tBodies[0];
    this.count = count;
    this.filter = filter;
    this.by = 1;
    this.down = false;
    this.rows = new globalThis.Map();
    this.heads = columns.map((c, i) => el("th", { scope: "col", class: c.num ? "num" : "" }, el("button", { onclick: () => this.sort(i) }, c.name)));
    table.tHead.rows[0].append(...this.heads);
    filter.addEventListener("input", () => this.draw(this.peers, this.chosen));
  }

  sort(i) {
    this.down = this.by === i ? !this.down : Boolean(columns[i].num);
    this.by = i;
    this.draw(this.peers, this.chosen);
  }

  draw(peers = [], chosen) {
    this.peers = peers;
    this.chosen = chosen;
    this.heads.forEach((h, i) => (i === this.by ? h.setAttribute("aria-sort", this.down ? "descending" : "ascending") : h.removeAttribute("aria-sort")));
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (p) => [p.name, stateText(p), p.state, pathText(p), p.reason, p.nat, ...p.tags, ...p.addresses, p.path.remote].join(" ").toLowerCase();
    const shown = peers.filter((p) => words.every((w) => text(p).includes(w)));
    const of = columns[this.by].of, sign = this.down ? -1 : 1;
    shown.sort((a, b) => {
      const x = of(a), y = of(b);
      const c = typeof x === "string" ? x.localeCompare(y) : x - y || 0;
      return sign * c || a.name.localeCompare(b.name);
    });
    const rows = shown.map((p) => {
      const cells = columns.map((c) => c.cell(p, this));
      const look = cells.map((c) => c.outerHTML).join("");
      const old = this.rows.get(p.id);
      if (old && old.look === look) {
        old.row.className = p.id === chosen ? "chosen" : "";
        return old.row;
      }
      const row = old ? old.row : el("tr");
      const focused = row.contains(document.activeElement);
      row.className = p.id === chosen ? "chosen" : "";
      row.replaceChildren(...cells);
      if (focused) row.querySelector("button").focus();
      this.rows.set(p.id, { row, look });
      return row;
    });
    // Only what stands elsewhere is moved: moving takes the focus away.
    rows.forEach((row, i) => { if (this.body.rows[i] !== row) this.body.insertBefore(row, this.body.rows[i] || null); });
    while (this.body.rows.length > rows.length) this.body.lastElementChild.remove();
    this.count.textContent = words.length ? `${shown.length} of ${peers.length}` : `${peers.length}`;
  }
}

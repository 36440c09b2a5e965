// All about one member: how it is linked, why so, what would help, and its last day.

import { el, seconds, bytes, rate, percent, ago, lastDay, pathText, stateText } from "./format.js";
import { chart } from "./chart.js";

const day = 24 * 3600 * 1000;

const facts = (rows) => el("dl", {}, ...rows.filter(([, v]) => v).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
const mono = (text) => (text ? el("span", { class: "mono" }, text) : "");

const changes = (list) =>
  list.length === 0 ? [] : [el("details", {}, el("summary", {}, `Recent changes (${list.length})`), el("ul", { class: "changes" }, ...list.toReversed().map((c) =>
    el("li", {}, el("time", { datetime: c.at }, new Date(c.at).toLocaleString()), ` ${c.what}`, ...(c.path ? [" ", mono(c.path)] : []), c.reason ? `: ${c.reason}` : ""))))];

export class Detail {
  constructor(section, ask) {
    this.section = section;
    this.ask = ask;
    this.head = section.querySelector("h2");
    this.body = section.querySelector("#detail-body");
    this.live = el("div", { class: "cols" });
    this.why = el("div");
    this.charts = el("div", { class: "cols" });
    this.body.replaceChildren(this.live, this.why, this.charts);
  }

  open(peer, focus) {
    this.section.hidden = false;
    this.id = peer.id;
    this.why.replaceChildren();
    this.charts.replaceChildren();
    this.update(peer);
    this.load(peer);
    clearInterval(this.timer);
    this.timer = setInterval(() => this.load(this.peer), 60000); // history has a point a minute
    if (focus) {
      this.section.focus({ preventScroll: true });
      this.section.scrollIntoView({ block: "nearest" });
    }
  }

  close() {
    clearInterval(this.timer);
    this.section.hidden = true;
    this.id = null;
  }

  // update shows what changes from moment to moment.
  update(p) {
    const turned = this.peer && this.peer.id === p.id && (this.peer.state !== p.state || this.peer.path.remote !== p.path.remote);
    this.peer = p;
    this.head.textContent = p.name;
    const before = facts([
      ["State", stateText(p) + (p.reason ? `: ${p.reason}` : "")],
      ["Path", pathText(p)],
      ["Its address", mono(p.path.remote)],
      ["Ours", mono(p.path.local)],
      ["Round trip", p.rtt_seconds ? seconds(p.rtt_seconds) : ""],
      ["Loss", p.state === "connected" ? percent(p.loss_ratio) : ""],
      ["Last 24 hours", lastDay(p.last_day)],
      ["Now", `in ${rate(p.rate?.rx || 0)}, out ${rate(p.rate?.tx || 0)}`],
    ]);
    const after = facts([
      ["Addresses", mono(p.addresses.map((a) => a.split("/")[0]).join("  "))],
      ["Traffic", `${bytes(p.receive_bytes)} received, ${bytes(p.transmit_bytes)} sent`],
      ["Last handshake", ago(p.last_handshake)],
      ["Came up in", p.time_to_connect_seconds ? seconds(p.time_to_connect_seconds) : ""],
      ["Largest packet", p.mtu ? `${p.mtu} bytes` : ""],
      ["Its NAT", p.nat],
      ["Version", p.version],
      ["Tags", p.tags.join(", ")],
    ]);
    this.live.replaceChildren(before, after);
    if (turned) this.load(p);
  }

  async load(p) {
    const name = encodeURIComponent(p.name);
    const answer = await this.ask(`api/link?peer=${name}`).catch((e) => ({ error: e.message }));
    if (this.id !== p.id) return;
    if (answer.error) {
      this.why.replaceChildren(el("p", { class: "meaning" }, answer.error));
      return;
    }
    const x = answer.explain;
    this.why.replaceChildren(
      ...(x.meaning ? [el("h3", {}, "Why it is so"), el("p", { class: "meaning" }, x.meaning)] : []),
      ...(x.advice?.length ? [el("h3", {}, "What would help"), ...x.advice.map((a) => el("p", { class: "advice" }, a))] : []),
      ...this.retry(p), ...changes(x.changes || []));
    this.draw(answer.history);
  }

  retry(p) {
    if (!this.ask.token || p.state === "connected") return [];
    const said = el("span", { role: "status" });
    return [el("p", {}, el("button", { onclick: () => this.ask("api/want", { name: p.name }).then(() => { said.textContent = " trying …"; }, (e) => { said.textContent = ` ${e.message}`; }) }, "Try again now"), said)];
  }

  draw(history) {
    const samples = (history?.samples || []).map((s) => ({ ...s, at: Date.parse(s.time) }));
    const step = (history?.step_seconds || 60) * 1000, to = Date.now();
    // A young agent's few minutes fill the picture; later it is a day.
    const from = Math.max(to - day, Math.min(samples[0]?.at ?? to, to - 15 * 60000));
    const measured = samples.filter((s) => s.rtt_avg_seconds > 0);
    this.charts.replaceChildren(
      chart({ title: "Round trip", format: (v) => (v ? seconds(v) : "0"), from, to, step, band: measured.map((s) => [s.at, s.rtt_min_seconds, s.rtt_max_seconds]), lines: [{ class: "a", points: measured.map((s) => [s.at, s.rtt_avg_seconds]) }] }),
      chart({ title: "Loss", format: percent, from, to, step, lines: [{ class: "c", points: samples.filter((s) => s.probes > 0).map((s) => [s.at, s.loss_ratio]) }], max: Math.max(0.1, ...samples.map((s) => s.loss_ratio || 0)) }),
      chart({ title: "Throughput", format: (v) => (v ? rate(v) : "0"), from, to, step, lines: [
        { name: "in", class: "a", points: samples.map((s) => [s.at, (s.receive_bytes * 1000) / step]) },
        { name: "out", class: "b", points: samples.map((s) => [s.at, (s.transmit_bytes * 1000) / step]) }] }));
  }
}

// The page's one state: what the agent has said. It comes as server-sent events; every part is drawn from it.

import { el, date, bytes } from "./format.js";
import { Map as Mesh } from "./map.js";
import { Table } from "./table.js";
import { Detail } from "./detail.js";

const $ = (id) => document.getElementById(id);

// `gridwire page` prints an address with #token=...: a fragment is never sent to a server, and it leaves the address bar at once.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}

// ask fetches JSON; with a body it changes something, which needs the token.
const ask = async (path, body) => {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json", "X-Gridwire-Token": ask.token }, body: JSON.stringify(body) } : {};
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `the agent answered ${response.status}`);
  return answer;
};
ask.token = sessionStorage.getItem("token") || "";

const peers = new globalThis.Map(); // by ID
let chosen = null;
let self = {};

const choose = (id, focus) => {
  chosen = id;
  const p = peers.get(id);
  if (p) detail.open(p, focus);
  draw();
};

const mesh = new Mesh($("map"), choose);
const table = new Table($("table"), $("filter"), $("count"), choose);
const detail = new Detail($("detail"), ask);

$("close").addEventListener("click", () => {
  detail.close();
  const id = chosen;
  chosen = null;
  draw();
  mesh.nodes.get(id)?.group.focus();
});
$("detail").addEventListener("keydown", (e) => { if (e.key === "Escape") $("close").click(); });

const take = (u, all) => {
  const now = performance.now();
  if (all) {
    const known = new Set(u.peers.map((p) => p.id));
    for (const id of peers.keys()) if (!known.has(id)) peers.delete(id);
  }
  for (const id of u.gone) peers.delete(id);
  for (const p of u.peers) {
    const old = peers.get(p.id);
    p.seen = now;
    // Bytes a second. The agent looks every 2 s and tells only of what has changed, so no change is older. Counters start anew with the agent.
    if (old && now > old.seen && p.receive_bytes >= old.receive_bytes && p.transmit_bytes >= old.transmit_bytes) {
      const s = Math.min(now - old.seen, 2500) / 1000;
      p.rate = { rx: (p.receive_bytes - old.receive_bytes) / s, tx: (p.transmit_bytes - old.transmit_bytes) / s };
    }
    peers.set(p.id, p);
  }
  self = u.self;
  top(u);
  findings(u.health);
  devices(u.devices || []);
  routes(u.routes || []);
  workloads();
  draw();
};

const top = (u) => {
  const name = u.network ? `${self.name} in ${u.network.name}` : "no network yet";
  document.title = `${name} – gridwire`;
  $("title").textContent = name;
  $("subtitle").textContent = u.network ? `${self.name}.${u.network.domain}` : "this machine is no member of a network";
  $("version").textContent = self.version ? `Version ${self.version}.` : "";
  $("self").replaceChildren(...[
    ["Addresses", self.addresses.map((a) => a.split("/")[0]).join("  ")], ["Interface", self.interface], ["UDP port", self.listen_port], ["NAT", self.nat],
    ["Lets others in", self.issuer ? "yes, it is an issuer" : "no"], ["Serves devices", self.gateway ? "yes, it is a gateway" : ""], ["Certificate until", self.certificate_expires ? date(self.certificate_expires) : ""],
  ].filter(([, v]) => v).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, `${v}`)]));
  $("actions").hidden = !(ask.token && self.issuer);
};

let said = "";
const findings = (health) => {
  const text = JSON.stringify(health);
  if (text === said) return; // a live region speaks at every change
  said = text;
  const levels = { good: "Good: ", notice: "Note: ", bad: "Trouble: " };
  $("findings").replaceChildren(...health.map((f) => el("li", { class: f.level }, el("span", { class: "sr" }, levels[f.level]), f.text,
    ...(f.remedy ? [el("small", {}, f.remedy)] : []), ...(f.about ? [el("p", { class: "about" }, ...f.about.slice(0, 6).map(about))] : []))));
};

// about leads to a member that a sentence is about.
const about = (name) => el("button", { onclick: () => {
  const p = [...peers.values()].find((x) => x.name === name);
  if (p) choose(p.id, true);
} }, name);

// rows shows a table where there is something to show, and draws it anew only when that has changed.
const rows = (id, list, row) => {
  const text = JSON.stringify(list);
  if (rows[id] === text) return;
  rows[id] = text;
  $(id).hidden = list.length === 0;
  $(id).querySelector("tbody").replaceChildren(...list.map((x) => el("tr", {}, ...row(x).map((c) => el("td", {}, c)))));
};

const address = (list) => el("span", { class: "mono" }, (list.at(-1) || "").split("/")[0]);

// devices are phones and the like that this node serves.
const devices = (list) => rows("devices", list, (d) => [d.name, address(d.addresses), d.state, d.last_heard ? new Date(d.last_heard).toLocaleString() : "never",
  bytes(d.receive_bytes), bytes(d.transmit_bytes), date(d.certificate_expires)]);

const ways = { own: "here", active: "used", unreachable: "no router is reached", local: "not used: this machine is on it", off: "off" };
const routes = (list) => rows("routes", list, (r) => [el("span", { class: "mono" }, r.prefix), `${ways[r.state] || r.state}${r.reason ? `: ${r.reason}` : ""}`, r.via || "–", r.routers.join(", ")]);

// workloads are links only where a browser can follow one.
const workloads = () => {
  const rows = [self, ...peers.values()].flatMap((m) => (m.workloads || []).map((w) => ({ m, w }))).sort((a, b) => a.w.name.localeCompare(b.w.name));
  $("workloads").hidden = rows.length === 0;
  $("workload-rows").replaceChildren(...rows.map(({ m, w }) => {
    const host = (w.addresses[0] || "").split("/")[0];
    const address = host.includes(":") ? `[${host}]` : host;
    const ports = w.ports.flatMap((text, i) => { // like http=8080/tcp
      const [, name, port, protocol] = /^(?:(.*)=)?(\d+)\/(tcp|udp)$/.exec(text) || [];
      const label = name ? `${name} (${port}/${protocol})` : text;
      const web = (name === "http" || name === "https") && protocol === "tcp";
      // By address: it works whether or not this machine's resolver knows the network's names.
      const shown = web ? el("a", { href: `${name}://${address}:${port}/`, target: "_blank", rel: "noreferrer" }, label) : label;
      return i ? [", ", shown] : [shown];
    });
    return el("tr", {}, el("td", {}, w.dns_name), el("td", {}, m.name), el("td", { class: "mono" }, host), el("td", {}, ...(ports.length ? ports : ["–"])));
  }));
};

const draw = () => {
  const list = [...peers.values()];
  mesh.draw(self, list, chosen);
  table.draw(list, chosen);
  const p = peers.get(chosen);
  if (p) detail.update(p);
  else if (chosen) { detail.close(); chosen = null; }
};

const live = (on, text) => {
  if ($("live").textContent === text) return;
  $("live").className = `live ${on ? "on" : "off"}`;
  $("live").textContent = text;
};

$("invite").addEventListener("submit", async (e) => {
  e.preventDefault();
  const name = $("invite-name").value.trim();
  try {
    const answer = await ask("api/invite", name ? { name } : {});
    const token = el("textarea", { readonly: true, rows: 4, "aria-label": "Invitation token" }, answer.token);
    $("invitation").replaceChildren(el("p", {}, "On the new machine, until ", new Date(answer.expires).toLocaleString(), ": ", el("code", {}, "gridwire agent --join TOKEN")), token);
    token.select();
  } catch (err) {
    $("invitation").replaceChildren(el("p", { class: "advice" }, err.message));
  }
});

// A peer of which there is no news carries nothing.
setInterval(() => {
  const quiet = [...peers.values()].filter((p) => p.rate && performance.now() - p.seen > 5000);
  for (const p of quiet) p.rate = null;
  if (quiet.length) draw();
}, 2500);

const source = new EventSource("api/events"); // it connects again by itself
source.addEventListener("open", () => live(true, "live"));
source.addEventListener("error", () => live(false, "the agent does not answer"));
source.addEventListener("state", (e) => take(JSON.parse(e.data), true));
source.addEventListener("update", (e) => take(JSON.parse(e.data), false));
source.addEventListener("trouble", (e) => live(false, JSON.parse(e.data).error));

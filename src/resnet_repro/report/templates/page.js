"use strict";
// The filter by paper and data set, links to runs, and what a figure says of the point under a finger. Without this
// script everything is shown.
const filter = document.getElementById("filter");
const kinds = { figure: "figures", claim: "claims", table: "tables", row: "final errors", run: "runs" };

const choice = name => filter.querySelector(`input[name=${name}]:checked`).value;

function choose(name, value) {
  const inputs = [...filter.querySelectorAll(`input[name=${name}]`)];
  (inputs.find(input => input.value === value) ?? inputs[0]).checked = true;
}

// A part that names no paper, such as a network of neither, belongs to both.
const isOf = (words, chosen) => !chosen || !words || words.split(" ").includes(chosen);

function apply() {
  const paper = choice("paper"), data = choice("data");
  for (const part of document.querySelectorAll("[data-set]"))
    part.hidden = !(isOf(part.dataset.paper, paper) && isOf(part.dataset.set, data));
  // innermost groups first: a group with nothing to show is hidden with its heading
  for (const group of [...document.querySelectorAll("[data-group]")].reverse())
    group.hidden = !group.querySelector("[data-kind]:not([hidden])");
  for (const link of document.querySelectorAll("nav a"))
    link.parentElement.hidden = Boolean(document.querySelector(link.hash).closest("[hidden]"));

  const counts = Object.entries(kinds).flatMap(([kind, name]) => {
    const all = [...document.querySelectorAll(`[data-kind=${kind}]`)];
    return all.length ? `${all.filter(part => !part.hidden).length} of ${all.length} ${name}` : [];
  });
  document.getElementById("shown").textContent = `Shown: ${counts.join(", ")}.`;
  document.getElementById("everything").hidden = !paper && !data;
}

// Keep the choice in the address, so that a filtered page can be linked.
function remember() {
  const address = new URL(location.href);
  for (const name of ["paper", "data"])
    choice(name) ? address.searchParams.set(name, choice(name)) : address.searchParams.delete(name);
  history.replaceState(null, "", address);
}

function showEverything() {
  choose("paper", "");
  choose("data", "");
  apply();
  remember();
}

// Show and open the target of the address.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.closest("[hidden]")) showEverything();
  for (let part = target; part; part = part.parentElement)
    if (part instanceof HTMLDetailsElement) part.open = true;
  target.scrollIntoView();
}

filter.addEventListener("change", () => { apply(); remember(); });
document.getElementById("everything").addEventListener("click", () => {
  showEverything();
  filter.querySelector("input:checked").focus();
});
addEventListener("hashchange", reveal);
// a second click on the same link changes no address
document.addEventListener("click", event => { if (event.target.closest("a[href^='#']")) setTimeout(reveal); });

// Open everything before printing, and close again what was closed.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => { for (const part of closed) part.open = false; });

const asked = new URLSearchParams(location.search);
for (const name of ["paper", "data"]) choose(name, asked.get(name) ?? "");
filter.hidden = false;
apply();
reveal();

// A figure tells the nearest point of the nearest line: to a pointer, to a tap, and to the arrow keys. A line's points
// are its data (logarithms on a logarithmic axis), which the viewBox scales and `scale(1 -1)` turns over.
for (const plot of document.querySelectorAll(".plot")) {
  const box = plot.querySelector(".lines").viewBox.baseVal;
  const lines = [...plot.querySelectorAll("polyline")].map(element => ({
    element,
    points: Array.from(element.points, ({ x, y }) =>
      ({ x, y, across: (x - box.x) / box.width, down: (-y - box.y) / box.height })),
  })).filter(line => line.points.length);
  if (!lines.length) continue;
  const output = plot.parentElement.querySelector("output"), dot = plot.querySelector("circle");
  let line = lines[0], index = -1;

  function tell() {
    const point = line.points[index];
    const y = "log" in plot.dataset ? 10 ** point.y : point.y, unit = plot.dataset.unit;
    const value = unit ? y.toFixed(2) + unit : Number(y.toPrecision(3));
    output.textContent = `${line.element.dataset.label}: ${value} at ${plot.dataset.x} ${point.x.toLocaleString("en")}`;
    output.className = "told";
    for (const each of lines) each.element.classList.toggle("told", each === line);
    dot.setAttribute("cx", `${100 * point.across}%`);
    dot.setAttribute("cy", `${100 * Math.max(0, point.down)}%`);
    dot.setAttribute("visibility", "visible");
  }

  function forget() {
    output.textContent = plot.dataset.y;
    output.className = "";
    for (const each of lines) each.element.classList.remove("told");
    dot.setAttribute("visibility", "hidden");
    index = -1;
  }

  // The index of the point of a line that is nearest along the x axis.
  const nearest = ({ points }, across) => points.reduce((best, point, i) =>
    Math.abs(point.across - across) < Math.abs(points[best].across - across) ? i : best, 0);

  function follow(event) {
    const frame = plot.getBoundingClientRect();
    const across = (event.clientX - frame.left) / frame.width, down = (event.clientY - frame.top) / frame.height;
    const distance = each => {
      const point = each.points[nearest(each, across)];
      return Math.hypot((point.across - across) * frame.width, (point.down - down) * frame.height);
    };
    line = lines.reduce((best, each) => distance(each) < distance(best) ? each : best);
    index = nearest(line, across);
    tell();
  }

  function move(event) {
    if (event.key === "Escape") forget();
    const [toLine, toPoint] =
      { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key] ?? [0, 0];
    if (!toLine && !toPoint) return;
    event.preventDefault();
    if (index < 0) index = line.points.length - 1;
    else if (toPoint) index = Math.min(Math.max(index + toPoint, 0), line.points.length - 1);
    else {
      const { across } = line.points[index];
      line = lines[(lines.indexOf(line) + toLine + lines.length) % lines.length];
      index = nearest(line, across);
    }
    tell();
  }

  plot.setAttribute("tabindex", "0");
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") forget(); });
  plot.addEventListener("keydown", move);
  plot.addEventListener("blur", forget);
}

"use strict";
// The filter by paper and data set, and links to runs. Without this script everything is shown.
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

// The keyboard, and news of a run in flight. Everything else works without it.
// Runs before the page is parsed, so that a key pressed early is kept until `ready`.
"use strict";

const ready = new Promise((resolve) => {
  document.addEventListener("DOMContentLoaded", resolve);
});

const items = () => [...document.querySelectorAll(".item, .one")];

function step(by) {
  const all = items();
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const next = Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + by));
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  n: () => follow('a[rel="next"]'),
  p: () => follow('a[rel="prev"]'),
  u: () => follow('a[rel="up"]'),
  r: () => follow("#random"),
  w: () => follow("#worst"),
  l: () => follow("#longest"),
  s: () => follow("#newly-solved"),
  x: () => follow("#newly-lost"),
  g: () => follow('.bar a[href="/curves"]'),
  "/": () => document.getElementById("text")?.focus(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = KEYS[event.key];
  if (act) {
    event.preventDefault();
    ready.then(act);
  }
});

async function copy(button) {
  const field = document.getElementById(button.dataset.of);
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    // Not on this machine's own address: browsers refuse it, the key does not.
    button.textContent = "Selected: press Ctrl-C";
    return;
  }
  button.textContent = "Copied";
}

async function look(list, news) {
  try {
    const status = await (await fetch("/status.json")).json();
    const more = status.rollouts - Number(list.dataset.rollouts);
    if (more > 0) {
      news.href = location.href;
      news.textContent = `${more.toLocaleString("en")} more rollouts: show`;
      news.hidden = false;
    }
  } catch {
    // The server has ended; the page stays as it is.
    return;
  }
  setTimeout(look, 3000, list, news);
}

ready.then(() => {
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  const list = document.getElementById("list");
  const news = document.getElementById("news");
  if (list && news) setTimeout(look, 3000, list, news);
});

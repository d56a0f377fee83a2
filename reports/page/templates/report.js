"use strict";
for (const tools of document.querySelectorAll(".tools")) {
  const list = document.getElementById(tools.dataset.list);
  const cards = Array.from(list.children);
  const search = tools.querySelector("input[type=search]");
  const [order, color, found] = ["select", "input[type=checkbox]", "output"].map((part) => tools.querySelector(part));
  const value = (card, key) => (card.dataset[key] === "nan" ? -Infinity : Number(card.dataset[key]));
  tools.hidden = false;
  const show = () => {
    const wanted = search.value.toLowerCase();
    const key = order.value;
    const sorted = cards.slice();
    if (key !== "index") sorted.sort((a, b) => value(b, key) - value(a, key) || 0);
    let shown = 0;
    for (const card of sorted) {
      card.hidden = wanted !== "" && !card.textContent.toLowerCase().includes(wanted);
      shown += card.hidden ? 0 : 1;
      list.append(card);
    }
    found.textContent = wanted === "" ? "" : `${shown} of ${cards.length} prompts`;
  };
  search.addEventListener("input", show);
  order.addEventListener("change", show);
  if (color) color.addEventListener("change", () => list.classList.toggle("plain", !color.checked));
}
const open = () => {
  const target = location.hash.length > 1 ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
  const around = target && target.closest("details");
  if (around) {
    around.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", open);
open();

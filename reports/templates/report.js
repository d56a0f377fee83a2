"use strict";
for (const tools of document.querySelectorAll(".tools")) {
  const list = document.getElementById(tools.dataset.list);
  const cards = Array.from(list.children);
  const [search, order] = [tools.querySelector("input"), tools.querySelector("select")];
  tools.hidden = false;
  const show = () => {
    const wanted = search.value.toLowerCase();
    const key = order.value;
    const sorted = cards.slice();
    if (key !== "index") sorted.sort((a, b) => (Number(b.dataset[key]) || -1e9) - (Number(a.dataset[key]) || -1e9));
    for (const card of sorted) {
      card.hidden = wanted !== "" && !card.textContent.toLowerCase().includes(wanted);
      list.append(card);
    }
  };
  search.addEventListener("input", show);
  order.addEventListener("change", show);
}

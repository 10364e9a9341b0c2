"use strict";
(() => {
  const root = document.querySelector(".adapter-doctor");
  const copy = root.querySelector(".ad-copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      const text = root.querySelector(".ad-cure .ad-fix").textContent;
      let done = true;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const area = document.createElement("textarea");
        area.value = text;
        document.body.append(area);
        area.select();
        done = document.execCommand("copy");
        area.remove();
        copy.focus();
      }
      copy.textContent = done ? "Copied" : "Not copied";
    });
  }
  const picture = root.querySelector(".ad-picture");
  if (!picture) return;
  const detail = root.querySelector(".ad-detail");
  detail.hidden = false;
  const cells = [...picture.querySelectorAll(".ad-cell")];
  const rows = [];
  for (const cell of cells) (rows[+cell.dataset.r] ??= []).push(cell);
  const filled = rows.map((row, r) => r).filter((r) => rows[r]); // rows without cells are passed over
  const show = (cell) => { detail.textContent = cell.querySelector("title").textContent; };
  let current = cells[0];
  const focus = (cell) => {
    current.tabIndex = -1;
    current = cell;
    cell.tabIndex = 0;
    cell.focus();
  };
  const nearest = (r, step, column) => {
    const row = rows[filled[filled.indexOf(r) + step]];
    return row && row.reduce((a, b) => (Math.abs(b.dataset.c - column) < Math.abs(a.dataset.c - column) ? b : a));
  };
  picture.addEventListener("mouseover", (event) => {
    const cell = event.target.closest(".ad-cell");
    if (cell) show(cell);
  });
  picture.addEventListener("focusin", (event) => {
    const cell = event.target.closest(".ad-cell");
    if (cell) { current.tabIndex = -1; current = cell; cell.tabIndex = 0; show(cell); }
  });
  picture.addEventListener("keydown", (event) => {
    const cell = event.target.closest(".ad-cell");
    if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
    const r = +cell.dataset.r, row = rows[r], at = row.indexOf(cell);
    const next = {
      ArrowRight: row[at + 1], ArrowLeft: row[at - 1], Home: row[0], End: row[row.length - 1],
      ArrowDown: nearest(r, 1, +cell.dataset.c), ArrowUp: nearest(r, -1, +cell.dataset.c),
    }[event.key];
    if (next) { event.preventDefault(); focus(next); }
  });
})();

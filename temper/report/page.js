"use strict";
// Sorting and searching the layer table, notes of the plot's points, and the choice of a tensor.
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const byId = (id) => document.getElementById(id);

  for (const table of all("table.sortable")) {
    const headings = all("thead th", table);
    const body = table.tBodies[0];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "descending";
        const numeric = all("tr", body).every((row) => {
          const v = row.cells[column].dataset.v;
          return v === "" || !Number.isNaN(Number(v)) || v === "inf" || v === "-inf";
        });
        const value = (row) => {
          const v = row.cells[column].dataset.v;
          if (v === "" || !numeric) return v || null;
          return v === "inf" ? Infinity : v === "-inf" ? -Infinity : Number(v);
        };
        // Figures start with the largest, words with A; unknown ones always come last.
        const first = numeric ? "descending" : "ascending";
        const now = heading.getAttribute("aria-sort");
        const order = now === "none" ? first : down ? "ascending" : "descending";
        const sign = order === "ascending" ? 1 : -1;
        const rows = all("tr", body).map((row, at) => ({ row, at, v: value(row) }));
        rows.sort((a, b) => {
          if (a.v === null || b.v === null) return (a.v === null) - (b.v === null) || a.at - b.at;
          const gap = numeric ? a.v - b.v : a.v.localeCompare(b.v, undefined, { numeric: true });
          return sign * (Number.isNaN(gap) ? 0 : gap) || a.at - b.at;
        });
        headings.forEach((other) => other.setAttribute("aria-sort", "none"));
        heading.setAttribute("aria-sort", order);
        body.append(...rows.map((item) => item.row));
      });
    });
  }

  const filter = byId("layer-filter"), kept = byId("only-kept"), count = byId("layer-count");
  if (filter) {
    const rows = all("#layer-table tbody tr");
    const update = () => {
      const wanted = filter.value.toLowerCase();
      let shown = 0;
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted) || (kept.checked && !row.classList.contains("kept"));
        shown += !row.hidden;
      }
      count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} shown`;
    };
    filter.addEventListener("input", update);
    kept.addEventListener("change", update);
  }

  const note = byId("point-note");
  for (const mark of all("button.mark")) {
    const show = () => {
      note.textContent = mark.dataset.note;
      all("button.mark.now").forEach((other) => other.classList.remove("now"));
      mark.classList.add("now");
    };
    for (const event of ["mouseenter", "focus", "click"]) mark.addEventListener(event, show);
  }

  const choice = byId("tensor-choice");
  if (choice) {
    const panel = byId("tensor-panel"), previous = byId("tensor-previous"), next = byId("tensor-next");
    const show = (index) => {
      choice.selectedIndex = index;
      panel.replaceChildren(byId(`tensor-${index}`).content.cloneNode(true));
      previous.disabled = index === 0;
      next.disabled = index === choice.length - 1;
    };
    const follow = () => {
      const found = /^#tensor-(\d+)$/.exec(location.hash);
      if (!found || Number(found[1]) >= choice.length) return;
      show(Number(found[1]));
      byId("tensors").scrollIntoView();
      choice.focus({ preventScroll: true });
    };
    choice.addEventListener("change", () => show(choice.selectedIndex));
    previous.addEventListener("click", () => show(choice.selectedIndex - 1));
    next.addEventListener("click", () => show(choice.selectedIndex + 1));
    window.addEventListener("hashchange", follow);
    // A second click on the same link changes no hash.
    for (const link of all('a[href^="#tensor-"]')) link.addEventListener("click", () => setTimeout(follow));
    show(0);
    follow();
  }
})();

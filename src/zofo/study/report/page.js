(() => {
  "use strict";
  const all = (query) => Array.from(document.querySelectorAll(query));
  for (const each of all("form.search, .toggle")) each.hidden = false;
  for (const box of all("[data-run]")) {
    box.addEventListener("change", () => {
      for (const line of all(".run-" + box.dataset.run)) line.style.display = box.checked ? "" : "none";
    });
  }
  const search = document.getElementById("search");
  if (!search) return;
  const wrong = document.getElementById("wrong"), right = document.getElementById("right");
  const found = document.getElementById("found");
  const rows = all(".row").map((row) => [row, row.textContent.toLowerCase(), row.classList.contains("ok")]);
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [row, text, ok] of rows) {
      const shown = (ok ? right : wrong).checked && words.every((word) => text.includes(word));
      row.hidden = !shown;
      count += shown;
    }
    found.textContent = count + " of " + rows.length;
  };
  for (const each of [search, wrong, right]) each.addEventListener("input", update);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  update();
})();

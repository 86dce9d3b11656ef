/* The tables of claims can be filtered and sorted. Without this script they are tables. */
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.claims")) makeUsable(table);
});

function makeUsable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const verdicts = [...new Set(rows.map((row) => verdict(row)).filter(Boolean))];

  function verdict(row) {
    return /(^| )verdict-/.test(row.className) ? row.cells[1].textContent.trim() : "";
  }

  /* What is typed and chosen above the table decides which rows are shown. */
  const bar = document.createElement("div");
  bar.className = "claims-bar";
  const words = document.createElement("input");
  words.type = "search";
  words.placeholder = "Words in a row";
  words.setAttribute("aria-label", "Show only rows with these words");
  const choice = document.createElement("select");
  choice.setAttribute("aria-label", "Show only rows with this verdict");
  for (const name of ["every verdict", ...verdicts]) choice.add(new Option(name, name === "every verdict" ? "" : name));
  const said = document.createElement("span");
  said.setAttribute("role", "status");
  bar.append(words, ...(verdicts.length > 1 ? [choice] : []), said);
  table.parentElement.before(bar);

  function filter() {
    const asked = words.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !asked.every((word) => text.includes(word)) || (choice.value !== "" && verdict(row) !== choice.value);
    }
    said.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  words.addEventListener("input", filter);
  choice.addEventListener("change", filter);
  filter();

  /* A click on a heading sorts by its column: up, down, and as it was. */
  const order = new Intl.Collator("en", { numeric: true, ignorePunctuation: true });
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.querySelector("p").childNodes);
    heading.querySelector("p").append(button);
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      const sorted = [...rows];
      if (now !== "descending") {
        const sign = now === "ascending" ? -1 : 1;
        const text = (row) => row.cells[heading.cellIndex].textContent.trim();
        sorted.sort((one, other) => sign * order.compare(text(one), text(other)));
        heading.setAttribute("aria-sort", now === "ascending" ? "descending" : "ascending");
      }
      body.append(...sorted);
    });
  }

  /* The address of a row, beside its link to the chapter. */
  for (const row of rows) {
    const link = document.createElement("a");
    link.className = "row-link";
    link.href = `#${row.querySelector("span[id^='claim-']").id}`;
    link.textContent = "#";
    link.setAttribute("aria-label", "Link to this row");
    row.cells[row.cells.length - 1].querySelector("p").append(" ", link);
  }
}

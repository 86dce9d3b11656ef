/* Results are sections, functions and terms (sections.js, written by _ext/section_search.py) in place of whole pages. */
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // every page but that of the search
  const sections = new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = "sections.js";
    script.onload = () => resolve(window.SECTIONS);
    document.head.append(script);
  });

  /* The beginning of a word, as it is asked for or without its ending. */
  function pattern(word) {
    return new RegExp(`(?<![\\p{L}\\p{N}])(?:${word}|${new Stemmer().stemWord(word)})`, "giu");
  }

  function score([, page, title, keywords, text], patterns, length) {
    const points = patterns.map((each) => (`${title} ${keywords}`.search(each) >= 0 ? 10 : `${page} ${text}`.search(each) >= 0 ? 1 : 0));
    return points.includes(0) ? 0 : points.reduce((one, other) => one + other, length / (length + title.length));
  }

  /* The text around the first word that is found, with all of them marked. */
  function excerpt(text, patterns) {
    const first = Math.min(...patterns.map((each) => text.search(each)).filter((place) => place >= 0), text.length);
    const start = first === text.length ? 0 : Math.max(0, text.lastIndexOf(" ", Math.max(0, first - 100)));
    const end = start + 260 < text.length ? text.lastIndexOf(" ", start + 260) : text.length;
    const paragraph = document.createElement("p");
    paragraph.className = "context";
    paragraph.append(start ? "… " : "", text.slice(start, end).trim(), end < text.length ? " …" : "");
    return paragraph;
  }

  Search.query = async (query) => {
    const asked = splitQuery(query.toLowerCase()).filter((word) => !stopwords.includes(word));
    const patterns = asked.map(pattern);
    const scored = (await sections).map((each) => [asked.length ? score(each, patterns, query.length) : 0, each]);
    const found = scored.filter(([points]) => points > 0).sort(([one], [other]) => other - one);
    for (const [, [address, page, title, , text]] of found) {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = address;
      link.textContent = title === page ? page : `${page} › ${title}`;
      item.append(link, excerpt(text, patterns));
      for (const word of asked) _highlightText(item, word, "highlighted");
      Search.output.append(item);
    }
    Search.stopPulse();
    Search.title.textContent = "Search results";
    Search.status.textContent = found.length ? `Found in ${found.length} places.` : "Found nowhere: try fewer words, or the beginning of one.";
    if (SPHINX_HIGHLIGHT_ENABLED) localStorage.setItem("sphinx_highlight_terms", asked.join(" "));
  };
});

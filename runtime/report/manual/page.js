"use strict";
const search = document.getElementById("search");
const articles = [...document.querySelectorAll("article")];
const links = new Map([...document.querySelectorAll("nav li a")].map((a) => [a.hash.slice(1), a]));

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const article of articles) {
    article.hidden = !words.every((word) => article.dataset.words.includes(word));
    links.get(article.id).parentElement.hidden = article.hidden;
  }
  for (const group of [...document.querySelectorAll("nav section")].reverse()) {
    group.hidden = !group.querySelector("li:not([hidden])");
  }
  document.getElementById("none").hidden = articles.some((article) => !article.hidden);
}

search.addEventListener("input", filter);
addEventListener("hashchange", () => {
  const wanted = document.getElementById(location.hash.slice(1));
  if (wanted && wanted.hidden) {
    search.value = "";
    filter();
    wanted.scrollIntoView();
  }
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape") {
    search.value = "";
    filter();
  }
});
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});

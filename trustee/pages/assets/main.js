// Which view is shown: the part of the address behind the #.

import { compareView } from './compare.js';
import { h, place, put } from './dom.js';
import { episodeView, groupView } from './episode.js';
import { episodesView } from './episodes.js';
import { runView } from './run.js';
import { runsView } from './runs.js';

const page = document.getElementById('page');
const crumbs = document.getElementById('crumbs');
const followed = document.getElementById('follow');
let current = new AbortController();
let shownPath = null;

/** Show where the reader is: pairs of a text and a link. */
function showPlace(...steps) {
  put(crumbs, steps.map(([text, link], at) => [at ? h('span', { class: 'sep' }, '/') : null, link ? h('a', { href: link }, text) : h('span', null, text)]));
  document.title = [...steps.map(([text]) => text).reverse(), 'trustee'].join(' · ');
}

/** Show whether the page follows a run. */
function showFollowing(text, isWell = true) {
  followed.hidden = !text;
  followed.textContent = text || '';
  followed.className = isWell ? 'follow' : 'follow lost';
}

async function show() {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const parts = path.split('/').filter(Boolean).map(decodeURIComponent);
  const given = new URLSearchParams(query || '');
  const context = { page, signal, given, showPlace, showFollowing };
  showFollowing('');
  const moved = path !== shownPath;
  shownPath = path;
  try {
    if (parts[0] === 'run' && parts[2] === 'episodes') await episodesView(context, parts[1], parts[3] || 'episodes');
    else if (parts[0] === 'run' && parts[2] === 'episode') await episodeView(context, parts[1], parts[3], Number(parts[4]));
    else if (parts[0] === 'run' && parts[2] === 'group') await groupView(context, parts[1], parts[3], Number(parts[4]));
    else if (parts[0] === 'run') await runView(context, parts[1], parts[2] || 'overview');
    else if (parts[0] === 'compare') await compareView(context, given.getAll('run'));
    else await runsView(context);
    if (moved && !signal.aborted) scrollTo(0, 0);
  } catch (error) {
    if (signal.aborted) return;
    put(page, h('section', { class: 'empty', role: 'alert' }, h('h1', null, 'This cannot be shown'), h('p', null, error.message), h('p', null, h('a', { href: place([]) }, 'All runs'))));
  }
}

addEventListener('hashchange', show);
addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const target = { '/': '[data-key="search"]', ArrowLeft: '[data-key="before"]', ArrowRight: '[data-key="next"]' }[event.key];
  const found = target && document.querySelector(target);
  if (!found) return;
  event.preventDefault();
  if (event.key === '/') found.focus();
  else found.click();
});
show();

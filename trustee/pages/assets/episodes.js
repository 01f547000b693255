// The episodes of a run: a table with filters, an order and pages.

import { ask, follow, settle } from './ask.js';
import { drawn, h, place, put } from './dom.js';
import { tabs, troubles } from './run.js';
import { pill } from './runs.js';
import { number, reward } from './words.js';

const PAGE = 50;
const FILES = { episodes: 'in training', before: 'held-out, before', after: 'held-out, after', base: 'held-out, base', adapter: 'held-out, adapter' };
const COLUMNS = [['row', 'episode'], ['version', 'step'], ['reward', 'reward'], ['blame', 'blame'], ['difficulty', 'difficulty'], ['turns', 'turns'], ['tokens', 'tokens']];
const FILTERS = ['text', 'reward', 'blame', 'tool', 'group', 'step', 'sort', 'order'];

/** Return a reward as a chip. */
export function rewardChip(row) {
  if (row.failed) return h('span', { class: 'chip quiet', title: 'not by the policy; never trained on' }, 'failed');
  return h('span', { class: `chip ${row.reward > 0 ? 'good' : row.reward < 0 ? 'bad' : 'quiet'}` }, reward(row.reward));
}

export async function episodesView(context, id, file) {
  const { page, signal, given, showPlace, showFollowing } = context;
  const wanted = Object.fromEntries(FILTERS.map((name) => [name, given.get(name) || '']));
  const begin = Math.max(0, Number(given.get('begin')) || 0);
  const look = () => ask(`runs/${id}/episodes/${file}`, { ...wanted, begin, count: PAGE }, signal);
  // Both at once, so that the first rows come as soon as they can.
  let first = look();
  const [run] = await Promise.all([ask(`runs/${id}`, {}, signal), first]);
  showPlace(['runs', '#/'], [run.place, place(['run', id])], ['episodes']);
  const go = (changes) => {
    const next = { ...wanted, begin: '', ...changes };
    location.hash = place(['run', id, 'episodes', changes.file || file], { ...next, file: '' });
  };
  const bar = h('form', { class: 'filters', role: 'search', onsubmit: (event) => event.preventDefault() });
  const state = h('p', { class: 'quiet state', role: 'status' });
  const body = h('tbody');
  const turn = h('nav', { class: 'pages', 'aria-label': 'Pages' });
  const trouble = h('div');
  const table = h('table', { class: 'episodes' }, h('thead', null, h('tr', null, COLUMNS.map(([key, name]) => header(key, name, wanted, go)), h('th', null, 'tools'), h('th', null, 'task'))), body);
  put(page, h('div', { class: 'headline' }, h('h1', null, run.place, ' ', pill(run))), tabs(id, run, file === 'episodes' ? 'episodes' : 'held-out'), trouble, bar, state, h('div', { class: 'scroll' }, table), turn);

  const drawBar = drawn(bar, (facets) => filterBar(run, file, wanted, facets, go));
  const drawRows = drawn(body, ({ rows, nothing }) => (nothing ? h('tr', null, h('td', { class: 'nothing', colspan: 9 }, nothing)) : rows.map((row) => line(id, file, row))));
  const drawPages = drawn(turn, (found) => pages(found, begin, go));
  async function refresh() {
    const found = await (first || look());
    first = null;
    if (!bar.contains(document.activeElement)) drawBar(found.facets);
    put(trouble, troubles([...(found.problem ? [`${FILES[file]}: ${found.problem}`] : []), ...found.problems, ...(found.bad > found.problems.length ? [`and ${number(found.bad - found.problems.length)} more lines`] : []), ...(found.torn && run.state !== 'under way' ? ['the last line is torn, as a kill leaves it'] : [])]));
    put(state, said(found, wanted));
    drawRows({ rows: found.rows, nothing: found.rows.length || !found.complete ? '' : found.episodes ? 'No episode matches; relax the filters.' : 'No episodes yet.' });
    drawPages({ matching: found.matching });
    return found.complete;
  }

  // Each request reads a piece of the file; nothing is asked while nothing changes.
  const readOn = settle(30, async () => {
    try {
      while (!signal.aborted && !(await refresh()));
    } catch (error) {
      if (!signal.aborted) put(state, error.message);
    }
  });
  if (!(await refresh())) readOn();
  follow(id, readOn, signal, (isWell) => showFollowing(run.state === 'under way' ? (isWell ? 'live' : 'the server does not answer') : '', isWell));
}

function header(key, name, wanted, go) {
  const active = (wanted.sort || 'row') === key;
  const isDown = (wanted.order || 'down') === 'down';
  const next = active && isDown ? 'up' : 'down';
  return h('th', { 'aria-sort': active ? (isDown ? 'descending' : 'ascending') : 'none' }, h('button', { onclick: () => go({ sort: key, order: next }) }, name, h('span', { class: 'arrow', 'aria-hidden': 'true' }, active ? (isDown ? ' ↓' : ' ↑') : '')));
}

function filterBar(run, file, wanted, facets, go) {
  const field = (label, input) => h('label', null, h('span', null, label), input);
  const select = (name, options, label) => field(label, h('select', { name, onchange: (event) => go({ [name]: event.target.value }) }, options.map(([value, text]) => h('option', { value, selected: value === wanted[name] }, text))));
  const input = (name, label, attributes) => field(label, h('input', { name, value: wanted[name], ...attributes, onchange: (event) => go({ [name]: event.target.value.trim() }), onkeydown: (event) => { if (event.key === 'Enter') go({ [name]: event.target.value.trim() }); } }));
  const rewards = [['', 'any'], ['>0', 'above 0'], ['<0', 'below 0'], ['0', 'exactly 0']];
  if (wanted.reward && !rewards.some(([value]) => value === wanted.reward)) rewards.push([wanted.reward, wanted.reward]);
  const isFiltered = ['text', 'reward', 'blame', 'tool', 'group', 'step'].some((name) => wanted[name]);
  return [
    input('text', 'text', { type: 'search', placeholder: 'words in the conversation', 'data-key': 'search', class: 'grow' }),
    run.files.length > 1 ? field('from', h('select', { onchange: (event) => go({ file: event.target.value }) }, run.files.map((name) => h('option', { value: name, selected: name === file }, FILES[name])))) : null,
    select('reward', rewards, 'reward'),
    select('blame', [['', 'any'], ['none', 'solved'], ...Object.entries(facets.blame).map(([role, count]) => [role, `${role} (${number(count)})`])], 'blame'),
    select('tool', [['', 'any'], ...facets.tools.map(([tool, count]) => [tool, `${tool} (${number(count)})`])], 'tool called'),
    file === 'episodes' ? input('step', 'step', { type: 'number', min: 1, placeholder: `${facets.versions[0] + 1}–${facets.versions[1] + 1}` }) : null,
    input('group', 'group', { type: 'number', min: 0 }),
    isFiltered ? h('button', { type: 'button', onclick: () => go(Object.fromEntries(FILTERS.map((name) => [name, '']))) }, 'clear') : null,
  ];
}

function said(found, wanted) {
  const all = `${number(found.episodes)} episode${found.episodes === 1 ? '' : 's'}`;
  if (found.read_share < 1 && !found.complete) return `reading the file: ${Math.round(100 * found.read_share)} %, ${all} so far`;
  if (!found.complete) return `searching: ${number(found.looked_at)} of ${all}, ${number(found.matching)} found so far`;
  return found.matching === found.episodes ? all : `${number(found.matching)} of ${all}`;
}

function line(id, file, row) {
  const name = file === 'episodes' ? `${row.group}/${row.member}` : String(row.group);
  const link = place(['run', id, 'episode', file, row.row]);
  return h('tr', { onclick: (event) => { if (!event.target.closest('a') && !getSelection().toString()) location.hash = link; } },
    h('td', { 'data-name': 'episode' }, h('a', { href: link }, name)),
    h('td', { 'data-name': 'step', class: 'figure', title: `played by version ${row.version}` }, String(row.version + 1)),
    h('td', { 'data-name': 'reward' }, rewardChip(row)),
    h('td', { 'data-name': 'blame', class: row.blame ? '' : 'quiet' }, row.blame || '–'),
    h('td', { 'data-name': 'difficulty', class: 'figure' }, row.difficulty === null ? '–' : String(row.difficulty)),
    h('td', { 'data-name': 'turns', class: 'figure' }, String(row.turns)),
    h('td', { 'data-name': 'tokens', class: 'figure' }, number(row.tokens)),
    h('td', { 'data-name': 'tools', class: 'clip mono', title: row.tools.join(', ') }, row.tools.join(', ') || '–'),
    h('td', { 'data-name': 'task', class: 'clip', title: row.query || '' }, row.query || '–'));
}

function pages(found, begin, go) {
  if (found.matching <= PAGE && begin === 0) return null;
  const end = Math.min(begin + PAGE, found.matching);
  const last = Math.max(0, Math.floor((found.matching - 1) / PAGE) * PAGE);
  const button = (text, to, isOff, key) => h('button', { disabled: isOff, 'data-key': key, onclick: () => go({ begin: to || '' }) }, text);
  return [button('first', 0, begin === 0), button('← before', Math.max(0, begin - PAGE), begin === 0, 'before'), h('span', null, `${number(begin + 1)} to ${number(end)} of ${number(found.matching)}`), button('next →', begin + PAGE, end >= found.matching, 'next'), button('last', last, begin >= last)];
}

// All runs of the folders.

import { ask, repeat } from './ask.js';
import { sparkline } from './charts.js';
import { h, place, put } from './dom.js';
import { ago, duration, moment, percent, signed } from './words.js';

const LOOK_SECONDS = 5;
export const STATES = { 'under way': 'live', finished: 'good', interrupted: 'warn', failed: 'bad', killed: 'warn', foreign: 'quiet' };

/** Return the state of a run as a pill. */
export function pill(run) {
  return h('span', { class: `pill ${STATES[run.state] || 'quiet'}`, title: run.why || run.state }, run.state);
}

/** Show the list, and keep it fresh. */
export async function runsView({ page, signal, showPlace }) {
  showPlace(['runs']);
  const chosen = new Set();
  const body = h('tbody');
  const compare = h('button', { class: 'strong', disabled: true, onclick: () => { location.hash = place(['compare']) + `?${new URLSearchParams([...chosen].map((id) => ['run', id]))}`; } }, 'Compare');
  const said = h('p', { class: 'quiet' }, 'Choose two or more runs to compare them.');
  const head = h('div', { class: 'headline' }, h('h1', null, 'Runs'), h('div', { class: 'actions' }, said, compare));
  const table = h('table', { class: 'runs' }, h('thead', null, h('tr', null, ['', 'run', 'state', 'held-out success', 'reward', 'steps', 'time', 'model', 'began'].map((name) => h('th', null, name)))), body);

  const choose = (id, isChosen) => {
    if (isChosen) chosen.add(id);
    else chosen.delete(id);
    compare.disabled = chosen.size < 2;
    compare.textContent = chosen.size ? `Compare ${chosen.size}` : 'Compare';
  };

  async function refresh() {
    const runs = await ask('runs', {}, signal);
    if (runs.length === 0) {
      put(page, h('section', { class: 'empty' }, h('h1', null, 'No runs yet'), h('p', null, 'Start one with ', h('code', null, 'trustee run'), '; it appears here by itself.')));
      return;
    }
    if (!table.isConnected) put(page, head, table);
    put(body, runs.map((run) => row(run, chosen, choose)));
  }

  await refresh();
  repeat(LOOK_SECONDS, () => refresh().catch(() => {}), signal);
}

function row(run, chosen, choose) {
  const box = h('input', { type: 'checkbox', 'aria-label': `compare ${run.place}`, onchange: (event) => choose(run.id, event.target.checked) });
  box.checked = chosen.has(run.id);
  const success = run.after !== null
    ? [percent(run.before, 0), ' → ', h('b', null, percent(run.after, 0)), run.gain ? h('span', { class: `gain ${run.gain.low > 0 ? 'good' : run.gain.high < 0 ? 'bad' : 'quiet'}` }, ` ${signed(run.gain.points, 1)}`) : null]
    : run.before !== null ? [percent(run.before, 0), h('span', { class: 'quiet' }, ' before')] : '–';
  return h('tr', null,
    h('td', { class: 'pick' }, box),
    h('td', { class: 'what' }, h('a', { href: place(['run', run.id]) }, run.place), run.kind === 'run' ? null : h('span', { class: 'tag' }, run.kind), run.problems.length ? h('span', { class: 'tag warn', title: run.problems.join('\n') }, `${run.problems.length} broken`) : null),
    h('td', { 'data-name': 'state' }, pill(run)),
    h('td', { 'data-name': 'success' }, success),
    h('td', { 'data-name': 'reward' }, sparkline(run.reward)),
    h('td', { 'data-name': 'steps', class: 'figure' }, run.steps ? `${run.step} / ${run.steps}` : String(run.step)),
    h('td', { 'data-name': 'time', class: 'figure' }, duration(run.seconds)),
    h('td', { 'data-name': 'model', class: 'quiet clip', title: run.model }, run.model.split('/').at(-1) || '–'),
    h('td', { 'data-name': 'began', class: 'quiet', title: moment(run.began) }, ago(run.began)));
}

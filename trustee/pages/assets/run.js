// One run: how it goes, what it measured, what it was started with.

import { ask, follow, settle } from './ask.js';
import { intervals, lineChart } from './charts.js';
import { CHARTS } from './curves.js';
import { h, place, put } from './dom.js';
import { pill } from './runs.js';
import { ago, bytes, duration, line, moment, number, percent, signed } from './words.js';

const BURST = 400;
const NAMES = { before: 'before training', after: 'after training', base: 'base', adapter: 'adapter', episodes: 'training' };

/** Return the links to a run's parts. */
export function tabs(id, run, active) {
  const parts = [['overview', 'Overview', place(['run', id])]];
  for (const file of run.files) if (file === 'episodes') parts.push(['episodes', 'Episodes', place(['run', id, 'episodes', file])]);
  if (run.files.some((file) => file !== 'episodes')) parts.push(['held-out', 'Held-out tasks', place(['run', id, 'held-out'])]);
  parts.push(['settings', 'Settings', place(['run', id, 'settings'])]);
  return h('nav', { class: 'tabs', 'aria-label': 'Parts of the run' }, parts.map(([key, name, link]) => h('a', { href: link, 'aria-current': key === active ? 'page' : null }, name)));
}

/** Return what is broken in a run folder, if anything is. */
export function troubles(lines) {
  return lines.length ? h('details', { class: 'banner warn', open: lines.length < 3 }, h('summary', null, lines.length === 1 ? 'One thing could not be read' : `${lines.length} things could not be read`), h('ul', null, lines.map((text) => h('li', null, text)))) : null;
}

export async function runView(context, id, tab) {
  const { page, signal, showPlace, showFollowing } = context;
  let run = await ask(`runs/${id}`, {}, signal);
  showPlace(['runs', '#/'], [run.place]);
  if (tab === 'settings') {
    put(page, headline(run), tabs(id, run, tab), settings(run));
    return;
  }
  if (tab === 'held-out') {
    put(page, headline(run), tabs(id, run, tab), heldOut(id, run));
    return;
  }
  const steps = [];
  const head = h('div');
  const tiles = h('div', { class: 'tiles' });
  const charts = makeCharts(run);
  const happened = h('section', { class: 'panel' });
  put(page, head, tiles, h('div', { class: 'charts' }, charts.filter(([chart]) => !chart.more).map(([, card]) => card)), h('details', { class: 'more', open: run.kind === 'sft' }, h('summary', null, 'More curves'), h('div', { class: 'charts' }, charts.filter(([chart]) => chart.more).map(([, card]) => card))), happened);

  async function refresh() {
    const last = steps.length ? steps.at(-1).step : -1;
    const [described, found] = await Promise.all([ask(`runs/${id}`, {}, signal), ask(`runs/${id}/steps`, { after: last }, signal)]);
    run = described;
    if (last >= 0 && found.count < steps.length) {
      // The run went on from an earlier checkpoint: its steps are others now.
      steps.length = 0;
      const all = await ask(`runs/${id}/steps`, { after: -1 }, signal);
      steps.push(...all.steps);
    } else steps.push(...found.steps);
    paint();
  }

  function paint() {
    put(head, headline(run, steps), tabs(id, run, 'overview'), troubles([...run.problems, ...(run.torn ? ['a last line is torn, as a kill leaves it; whatever is before it is shown'] : [])]));
    put(tiles, summaryTiles(run, steps));
    const marks = placeMarks(run.marks, steps);
    for (const [chart, card] of charts) {
      const series = chart.of(steps, run);
      card.hidden = steps.length > 0 && !series.some((one) => one.points.some((point) => Number.isFinite(point.y)));
      card.show({ series, marks: chart.more ? [] : marks });
    }
    put(happened, timeline(run));
  }

  await refresh();
  follow(id, settle(BURST, () => refresh().catch(() => {})), signal, (isWell) => showFollowing(run.state === 'under way' ? (isWell ? 'live' : 'the server does not answer') : isWell ? '' : 'the server does not answer', isWell));
}

function makeCharts(run) {
  return CHARTS.map((chart) => {
    const section = chart.limit && run.record?.config?.[chart.limit[0]];
    const limit = section ? section[chart.limit[1]] : undefined;
    return [chart, lineChart({ ...chart, limit: Number.isFinite(limit) ? limit : undefined })];
  });
}

function headline(run, steps = []) {
  const done = run.steps ? Math.min(1, run.step / run.steps) : null;
  const isLive = run.state === 'under way';
  const stage = run.marks.findLast((mark) => mark.kind === 'stage');
  const moved = run.moved;
  const so = moved && moved.of ? `${moved.done} of ${moved.of} ${moved.unit}` : null;
  return h('div', { class: 'run-head' },
    h('div', { class: 'headline' }, h('h1', null, run.place, ' ', pill(run)), h('p', { class: 'quiet' }, [run.model && `model ${run.model.split('/').at(-1)}`, run.world && `world ${run.world}`, `began ${moment(run.began)}`, isLive ? `changed ${ago(run.changed)}` : duration(run.seconds)].filter(Boolean).join(' · '))),
    run.why ? h('p', { class: 'banner warn' }, run.why) : null,
    isLive ? h('div', { class: 'stage' }, h('span', null, stage ? stage.text : 'under way', so ? h('span', { class: 'quiet' }, `  ${so}`) : null), done !== null ? h('progress', { max: 1, value: done, 'aria-label': 'steps done' }) : null, h('span', { class: 'quiet' }, left(run, steps))) : null);
}

function left(run, steps) {
  const timed = steps.filter((step) => Number.isFinite(step.at));
  if (!run.steps || timed.length < 2 || run.step >= run.steps) return '';
  const each = (timed.at(-1).at - timed[0].at) / (timed.length - 1);
  return `step ${run.step} of ${run.steps}, at this pace ${duration(each * (run.steps - run.step))} to the last`;
}

function tile(name, value, note, tone) {
  return h('div', { class: `tile ${tone || ''}` }, h('span', { class: 'name' }, name), h('span', { class: 'big' }, value), h('span', { class: 'quiet' }, note || ' '));
}

function summaryTiles(run, steps) {
  const last = steps.at(-1);
  const first = steps[0];
  const shares = Object.entries(run.measured);
  const gain = run.pairing?.gain;
  const found = [];
  if (shares.length) {
    found.push(h('div', { class: 'tile wide' }, h('span', { class: 'name' }, 'Success on held-out tasks'),
      intervals(shares.map(([name, share], at) => ({ name: NAMES[name], value: share.value, low: share.low, high: share.high, colour: at ? 0 : 6, text: `${percent(share.low, 0)} to ${percent(share.high, 0)}` })), { format: (value) => percent(value) }),
      gain ? h('p', { class: 'quiet' }, h('b', { class: gain.low > 0 ? 'good' : gain.high < 0 ? 'bad' : '' }, `${signed(gain.points, 1)} points`), ` (95 % interval ${signed(gain.low, 1)} to ${signed(gain.high, 1)}), ${gain.better} tasks won, ${gain.worse} lost`) : h('p', { class: 'quiet' }, `${shares[0][1].count} tasks; 95 % intervals`)));
  }
  if (last) {
    const since = (value) => (first === last ? 'first step' : `${value} at step ${first.step}`);
    if (Number.isFinite(last.reward)) found.push(tile('Reward', signed(last.reward), since(signed(first.reward))));
    else if (Number.isFinite(last.loss)) found.push(tile('Loss', number(last.loss), since(number(first.loss))));
    if (Number.isFinite(last.difficulty)) found.push(tile('Difficulty', number(last.difficulty), `${number(first.difficulty)} at step ${first.step}`));
    const rates = Object.values(last.rates || {}).reduce((sum, rate) => sum + rate, 0);
    if (rates) found.push(tile('Tokens per second', number(Math.round(rates)), 'all roles, last step'));
    const episodes = steps.reduce((sum, step) => sum + (step.episodes || 0), 0);
    if (episodes) found.push(tile('Episodes', number(episodes), `${steps.length} steps in ${duration(run.seconds)}`));
    else found.push(tile('Steps', number(steps.length), `in ${duration(run.seconds)}`));
    if (last.memory) found.push(tile('Memory', bytes(last.memory), 'most in use'));
  }
  return found;
}

function placeMarks(marks, steps) {
  const found = [];
  let fallbacks = 0;
  for (const step of steps) {
    if (step.rolled_back_to !== null && step.rolled_back_to !== undefined) found.push({ x: step.step, kind: 'rollback', text: `rolled back to version ${step.rolled_back_to}` });
    if (step.memory_fallbacks > fallbacks) found.push({ x: step.step, kind: 'memory', text: 'one level down the memory ladder' });
    fallbacks = step.memory_fallbacks ?? fallbacks;
  }
  const timed = steps.filter((step) => Number.isFinite(step.at));
  for (const mark of marks) {
    if (!['alarm', 'gate', 'engine'].includes(mark.kind) || timed.length === 0) continue;
    const step = timed.find((one) => one.at >= mark.at) || timed.at(-1);
    // What came before the first step, or after the last, has no place among the steps.
    const isAmong = mark.at >= timed[0].at && mark.at <= timed.at(-1).at;
    if (isAmong || mark.kind === 'alarm') found.push({ x: step.step, kind: mark.kind, text: mark.text });
  }
  return found;
}

function timeline(run) {
  const names = { stage: 'stage', note: 'note', gate: 'gate', engine: 'engine', rollback: 'roll-back', memory: 'memory ladder', alarm: 'alarm' };
  if (run.marks.length === 0) return [h('h2', null, 'What happened'), h('p', { class: 'quiet' }, 'This run recorded no events.')];
  return [h('h2', null, 'What happened'), h('ol', { class: 'happened' }, run.marks.map((mark) => h('li', { class: mark.kind }, h('time', { title: moment(mark.at) }, moment(mark.at).slice(-8)), h('span', { class: `tag ${mark.kind}` }, names[mark.kind] || mark.kind), h('span', null, mark.text))))];
}

function heldOut(id, run) {
  const pairing = run.pairing;
  const files = run.files.filter((file) => file !== 'episodes');
  const rows = files.map((file) => {
    const share = run.measured[file];
    return h('p', null, h('a', { href: place(['run', id, 'episodes', file]) }, `Episodes ${NAMES[file]}`), share ? `: ${percent(share.value)} of ${share.count} tasks (95 % interval ${percent(share.low)} to ${percent(share.high)})${share.failed ? `, ${share.failed} failed` : ''}` : '');
  });
  if (!pairing) return h('section', { class: 'panel' }, h('h2', null, 'Held-out tasks'), rows, h('p', { class: 'quiet' }, 'A comparison needs two policies on the same tasks.'));
  const last = files.includes('adapter') ? 'adapter' : 'after';
  const list = (title, tasks, kind) => h('section', { class: 'panel' }, h('h2', null, `${title} (${tasks.length})`), tasks.length === 0 ? h('p', { class: 'quiet' }, 'none') : h('ul', { class: 'tasks' }, tasks.slice(0, 200).map((task) => h('li', { class: kind }, h('a', { href: place(['run', id, 'episodes', last], { text: '' }), onclick: (event) => { event.preventDefault(); openTask(id, last, task); } }, task)))));
  return [h('section', { class: 'panel' }, h('h2', null, 'Success'), intervals([{ name: 'before', value: pairing.first.value, low: pairing.first.low, high: pairing.first.high, colour: 6, text: `${pairing.shared} tasks` }, { name: 'after', value: pairing.second.value, low: pairing.second.low, high: pairing.second.high, colour: 0, text: `${pairing.shared} tasks` }], { format: (value) => percent(value) }), h('h2', null, 'Gain, in points'), intervals([{ name: 'gain', value: pairing.gain.points, low: pairing.gain.low, high: pairing.gain.high, colour: pairing.gain.low > 0 ? 2 : 3, text: `${signed(pairing.gain.low, 1)} to ${signed(pairing.gain.high, 1)}` }], { from: -100, to: 100, zero: 0, format: (value) => signed(value, 1) }), rows), h('div', { class: 'pair' }, list('Tasks won', pairing.won, 'good'), list('Tasks lost', pairing.lost, 'bad'))];
}

async function openTask(id, file, task) {
  const found = await ask(`runs/${id}/task/${file}/${encodeURIComponent(task)}`);
  location.hash = place(['run', id, 'episode', file, found.row]);
}

function settings(run) {
  const record = run.record || {};
  const input = h('input', { type: 'search', placeholder: 'find a setting', 'aria-label': 'find a setting', 'data-key': 'search' });
  const body = h('tbody');
  const rows = flat(record.config || {}).map(([key, value]) => [key, h('tr', null, h('th', null, key), h('td', null, line(value)))]);
  const choose = () => put(body, rows.filter(([key]) => key.includes(input.value.trim())).map(([, row]) => row));
  input.addEventListener('input', choose);
  choose();
  const table = (title, values) => h('section', { class: 'panel' }, h('h2', null, title), h('table', { class: 'keys' }, h('tbody', null, Object.entries(values).map(([key, value]) => h('tr', null, h('th', null, key), h('td', null, line(value)))))));
  return h('div', { class: 'pair settings' }, h('section', { class: 'panel' }, h('h2', null, 'Config'), rows.length ? [input, h('table', { class: 'keys' }, body)] : h('p', { class: 'quiet' }, 'There is no run.json that can be read.')), h('div', null, table('Folder', { path: run.path, files: run.files.join(', '), platform: record.platform || '–' }), table('Versions', record.versions || {}), table('Hashes of the prompts', record.prompts || {}), Object.keys(record.inputs || {}).length ? table('Inputs', record.inputs) : null));
}

function flat(table, path = '') {
  return Object.entries(table).flatMap(([key, value]) => (value && typeof value === 'object' && !Array.isArray(value) ? flat(value, `${path}${key}.`) : [[`${path}${key}`, value]]));
}

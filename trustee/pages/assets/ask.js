// Asking the server, and following a run.

const DEADLINE = 20000;

/** Return the answer of the server; throws an Error with its words. */
export async function ask(path, query, signal) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query || {})) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== '') asked.append(name, one);
    }
  }
  const deadline = AbortSignal.timeout(DEADLINE);
  const answer = await fetch(`/api/${path}?${asked}`, {
    signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || `the server answered ${answer.status}`);
  return found;
}

/**
 * Call `changed` whenever a run's files change, until the signal ends it. The server looks once a
 * second; `state` learns whether it can be reached.
 */
export function follow(run, changed, signal, state = () => {}) {
  const source = new EventSource(`/api/runs/${encodeURIComponent(run)}/follow`);
  source.addEventListener('changed', changed);
  source.addEventListener('open', () => state(true));
  source.addEventListener('error', () => state(false));
  signal.addEventListener('abort', () => source.close());
}

/** Call a function again and again while the page can be seen, until the signal ends it. */
export function repeat(seconds, act, signal) {
  const timer = setInterval(() => {
    if (!document.hidden) act();
  }, 1000 * seconds);
  signal.addEventListener('abort', () => clearInterval(timer));
}

/** Return a function that acts once for a burst of calls, and not while it still acts. */
export function settle(milliseconds, act) {
  let timer = null;
  let busy = false;
  let again = false;
  const start = async () => {
    timer = null;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      await act();
    } finally {
      busy = false;
      if (again) {
        again = false;
        timer = setTimeout(start, milliseconds);
      }
    }
  };
  return () => {
    timer ??= setTimeout(start, milliseconds);
  };
}

import type { RefObject } from 'react';
import { useEffect, useRef, useState } from 'react';

/** How many more are shown at a time: few enough for the browser to be done with them at once. */
const STEP = 50;

/**
 * How many of `total` to show, and the `ref` for an element that stands after them as long as there are more:
 * when it comes into sight, it is time for the next ones. For other words in `sought` it begins anew.
 */
export function useGrowing<T extends Element>(total: number, sought = ''): [number, RefObject<T>] {
  const [grown, setGrown] = useState({ sought, shown: STEP });
  const shown = grown.sought === sought ? grown.shown : STEP;
  const end = useRef<T>(null);
  const hasMore = shown < total;
  useEffect(() => {
    const element = end.current;
    if (!hasMore || element === null) {
      return;
    }
    // It tells at once of an element that is in sight already, so what is shown grows until the place is full.
    const observer = new IntersectionObserver(entries => {
      if (entries.some(({ isIntersecting }) => isIntersecting)) {
        setGrown({ sought, shown: shown + STEP });
      }
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, [sought, shown, hasMore]);
  return [shown, end];
}

/** Work that is never done twice at once: asked for while it is under way, it is done once more afterwards. */
export class Coalesced {
  constructor(private readonly work: () => Promise<void>) {}

  /** Resolves when work that began after this call is done. Rejects as it does. */
  run(): Promise<void> {
    if (this.current === null) {
      this.current = this.work().finally(() => {
        this.current = null;
      });
      return this.current;
    }
    this.next ??= this.current
      .catch(() => undefined)
      .then(() => {
        this.next = null;
        return this.run();
      });
    return this.next;
  }

  private current: Promise<void> | null = null;
  private next: Promise<void> | null = null;
}

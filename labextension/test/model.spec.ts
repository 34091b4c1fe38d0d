import { Signal } from '@lumino/signaling';
import { read } from '../src/events';
import { ProjectsModel } from '../src/model';
import type { IJob, IKernelPlace, IProject, IServer, IServerEvent, IServerEvents } from '../src/tokens';
import { JOB, PROJECT } from './samples';

/** Answers when it is told to, and counts. */
class SlowServer {
  calls: string[] = [];
  list: readonly IProject[] = [PROJECT];
  places: readonly IKernelPlace[] = [];
  job: IJob = JOB;
  running: readonly IJob[] = [];
  failure: Error | null = null;
  /** While it is set, lists of projects wait for it. */
  gate: Promise<void> | null = null;

  count(call: string): number {
    return this.calls.filter(one => one === call).length;
  }

  asServer(): IServer {
    const answers: Partial<IServer> = {
      projects: async () => {
        this.calls.push('projects');
        await this.gate;
        return this.answer(this.list);
      },
      kernels: async () => {
        this.calls.push('kernels');
        return Promise.resolve(this.answer(this.places));
      },
      recentJobs: async () => {
        this.calls.push('jobs');
        return Promise.resolve(this.answer(this.running));
      },
      job: async () => {
        this.calls.push('job');
        return Promise.resolve(this.answer(this.job));
      }
    };
    return answers as IServer;
  }

  private answer<T>(value: T): T {
    if (this.failure !== null) {
      throw this.failure;
    }
    return value;
  }
}

class FakeEvents implements IServerEvents {
  readonly emitted = new Signal<this, IServerEvent>(this);
  readonly opened = new Signal<this, void>(this);
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) {
    await Promise.resolve();
  }
}

function gate(): { promise: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const promise = new Promise<void>(resolve => {
    open = resolve;
  });
  return { promise, open };
}

describe('ProjectsModel', () => {
  let server: SlowServer;
  let events: FakeEvents;

  beforeEach(() => {
    server = new SlowServer();
    events = new FakeEvents();
  });

  async function made(): Promise<ProjectsModel> {
    const model = new ProjectsModel(server.asServer(), events);
    await model.ready;
    server.calls = [];
    return model;
  }

  it('reads everything once, and then waits for events', async () => {
    const model = new ProjectsModel(server.asServer(), events);
    await model.ready;
    expect(model.projects).toEqual([PROJECT]);
    expect(server.calls.sort()).toEqual(['jobs', 'kernels', 'projects']);
  });

  it('reads the projects again on an event', async () => {
    const model = await made();
    server.list = [{ ...PROJECT, drift: { added: 2, changed: 0, removed: 0 } }];
    events.emitted.emit({ kind: 'drift', project: 'thesis', id: '' });
    await settled();
    expect(model.find('thesis')?.drift?.added).toBe(2);
  });

  it('makes one more request of any number of events during one', async () => {
    const model = await made();
    const { promise, open } = gate();
    server.gate = promise;
    for (let at = 0; at < 20; at++) {
      events.emitted.emit({ kind: 'container', project: 'thesis', id: '' });
    }
    await settled();
    expect(server.count('projects')).toBe(1);
    server.gate = null;
    open();
    await settled();
    expect(server.count('projects')).toBe(2);
    expect(model.problem).toBe('');
  });

  it('reads everything again when the stream is back', async () => {
    await made();
    events.opened.emit();
    await settled();
    expect(server.calls.sort()).toEqual(['jobs', 'kernels', 'projects']);
  });

  it('follows a job, and finds out how one ended of which nothing was heard', async () => {
    const model = await made();
    const heard: string[] = [];
    model.jobChanged.connect((_, job) => heard.push(job.phase));
    events.emitted.emit({ kind: 'job', project: 'thesis', id: JOB.id });
    await settled();
    expect(model.running('thesis')?.progress.step).toBe(1);
    server.job = { ...JOB, phase: 'failed', error: { message: 'No.', reason: 'build-failed', line: 3 } };
    events.opened.emit();
    await settled();
    expect(heard).toEqual(['build', 'failed']);
    expect(model.running('thesis')).toBeUndefined();
  });

  it('never goes back from the end of a job', async () => {
    const model = await made();
    server.job = { ...JOB, phase: 'done' };
    await model.follow('thesis', JOB.id);
    server.job = JOB;
    await model.follow('thesis', JOB.id);
    expect(model.jobs.map(job => job.phase)).toEqual(['done']);
  });

  it('finds the jobs that run when the page is opened', async () => {
    server.running = [JOB];
    const model = await made();
    expect(model.jobs).toEqual([JOB]);
  });

  it('says why nothing is known, keeps what was, and recovers', async () => {
    const model = await made();
    server.failure = new Error('The engine is away.');
    await model.refresh();
    expect(model.problem).toBe('The engine is away.');
    expect(model.projects).toEqual([PROJECT]);
    server.failure = null;
    await model.refresh();
    expect(model.problem).toBe('');
  });

  it('finds the innermost project of a path, and none by half a name', async () => {
    server.list = [PROJECT, { ...PROJECT, name: 'inner', contents_path: 'thesis/inner' }];
    const model = await made();
    expect(model.owner('thesis/a/b.ipynb')?.name).toBe('thesis');
    expect(model.owner('thesis/inner/b.ipynb')?.name).toBe('inner');
    expect(model.owner('thesis')?.name).toBe('thesis');
    expect(model.owner('thesis-2/b.ipynb')).toBeUndefined();
  });

  it('is quiet once it is disposed', async () => {
    const model = await made();
    const heard = jest.fn();
    model.changed.connect(heard);
    model.dispose();
    await model.refresh();
    expect(heard).not.toHaveBeenCalled();
  });
});

describe('events', () => {
  it('takes ours, and nothing that only looks like them', () => {
    const schema = 'https://events.ds01-kernels.org/job/v1';
    expect(read({ schema_id: schema, project: 'p', id: 'x' })).toEqual({
      kind: 'job',
      project: 'p',
      id: 'x'
    });
    expect(read({ schema_id: schema, project: 3 })).toBeNull();
    expect(read({ schema_id: 'https://events.jupyter.org/x/v1', project: 'p' })).toBeNull();
    expect(read({ schema_id: `${schema}/more`, project: 'p' })).toBeNull();
  });
});

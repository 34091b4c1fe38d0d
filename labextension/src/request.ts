import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type {
  Action,
  IChoice,
  IFinding,
  IJob,
  IJobLog,
  IKernelPlace,
  IPackages,
  IPlan,
  IPreview,
  IProject,
  IProjectDetails,
  IRebuildOrder,
  ISaveOrder,
  IServer
} from './tokens';

/**
 * Milliseconds after which it is asked again for what could not be had. A container that starts or ends is a
 * change of the network to Chromium on the same machine, which then drops what it has just begun to ask for:
 * https://issues.chromium.org/issues/41465264
 */
const PAUSES = [200, 800];

/** The server said no, or could not be reached (`status` 0). The message is for the user. */
export class RequestError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly reason: string
  ) {
    super(message);
  }
}

/** The one place from which the server is called. */
export class Server implements IServer {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  projects(): Promise<readonly IProject[]> {
    return this.get('projects');
  }

  project(name: string): Promise<IProjectDetails> {
    return this.get(at(name));
  }

  create(name: string, template: string): Promise<IProject> {
    return this.post('projects', { name, template });
  }

  kernels(): Promise<readonly IKernelPlace[]> {
    return this.get('kernels');
  }

  doctor(project: string): Promise<readonly IFinding[]> {
    return this.get(at(project, 'doctor'));
  }

  packages(project: string): Promise<IPackages> {
    return this.get(at(project, 'packages'));
  }

  install(project: string, specs: readonly string[]): Promise<string> {
    return this.start(at(project, 'packages'), { specs });
  }

  preview(project: string, choice: IChoice): Promise<IPreview> {
    return this.post(at(project, 'rebuild/preview'), choice);
  }

  save(project: string, order: ISaveOrder): Promise<IPlan> {
    return this.post(at(project, 'save'), order);
  }

  rebuild(project: string, order: IRebuildOrder): Promise<string> {
    return this.start(at(project, 'rebuild'), order);
  }

  act(project: string, action: Action): Promise<string> {
    return this.start(at(project, action), {});
  }

  retire(project: string, force: boolean): Promise<string> {
    return this.start(at(project, 'retire'), { force });
  }

  async terminal(project: string): Promise<string> {
    return (await this.post<{ readonly name: string }>(at(project, 'terminal'), {})).name;
  }

  recentJobs(): Promise<readonly IJob[]> {
    return this.get('jobs');
  }

  jobs(project: string): Promise<readonly IJob[]> {
    return this.get(at(project, 'jobs'));
  }

  job(project: string, id: string): Promise<IJob> {
    return this.get(at(project, `jobs/${id}`));
  }

  log(project: string, id: string, offset: number): Promise<IJobLog> {
    return this.get(at(project, `jobs/${id}/log?offset=${offset}`));
  }

  cancel(project: string, id: string): Promise<IJob> {
    return this.request(at(project, `jobs/${id}`), { method: 'DELETE' });
  }

  private get<T>(path: string): Promise<T> {
    return this.request(path, { method: 'GET' });
  }

  private post<T>(path: string, body: object): Promise<T> {
    return this.request(path, { method: 'POST', body: JSON.stringify(body) });
  }

  private async start(path: string, body: object): Promise<string> {
    return (await this.post<{ readonly id: string }>(path, body)).id;
  }

  private async request<T>(path: string, init: RequestInit): Promise<T> {
    const url = URLExt.join(this.settings.baseUrl, 'ds01', path);
    const response = await this.fetch(url, init, init.method === 'GET' ? PAUSES : []);
    if (response.ok) {
      return (await response.json()) as T;
    }
    throw await refusal(response);
  }

  private async fetch(url: string, init: RequestInit, pauses: readonly number[]): Promise<Response> {
    try {
      return await ServerConnection.makeRequest(url, init, this.settings);
    } catch (error) {
      if (pauses.length === 0) {
        throw new RequestError(error instanceof Error ? error.message : String(error), 0, 'unreachable');
      }
      await sleep(pauses[0]);
      return this.fetch(url, init, pauses.slice(1));
    }
  }
}

function sleep(milliseconds: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, milliseconds));
}

function at(project: string, rest = ''): string {
  return `projects/${encodeURIComponent(project)}${rest && `/${rest}`}`;
}

async function refusal(response: Response): Promise<RequestError> {
  let said: { message?: unknown; reason?: unknown } = {};
  try {
    said = (await response.json()) as typeof said;
  } catch {
    // A proxy's page, or nothing: the status has to do.
  }
  const message = typeof said.message === 'string' && said.message ? said.message : response.statusText;
  return new RequestError(message, response.status, typeof said.reason === 'string' ? said.reason : '');
}

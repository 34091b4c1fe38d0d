"""Which package a module is in: facts, never derived from a name.

Where several packages provide a module it is the one that its authors publish for it now, or the module is
left out (``faiss``, ``psycopg2``).

What each was seen in is in ``tests/import_names.tsv``; ``scripts/check-import-names`` looks into the packages
themselves.
"""

from __future__ import annotations

from typing import Dict

#: Packages that are called as their module is.
_SAME = """
accelerate adjustText affine aiofiles aiohttp aiosqlite albumentations alembic altair anndata annoy anthropic
apscheduler arrow arviz ase astropy asyncpg attrs autograd autopep8 awkward bcrypt bibtexparser bitarray
bitsandbytes blinker bokeh boto3 botocore botorch bottleneck branca brotli cachetools cartopy casadi catboost
cattrs cdsapi cellpose cerberus cffi cfgrib cftime chardet chex cirq clearml click cloudpickle cma colorama
colorlog contextily contourpy CoolProp coverage cryptography cvxopt cvxpy Cython cython cytoolz czifile dask
datasets dateparser deap deepspeed deprecated diffusers dill distributed django dlib docker docplex docutils
docx2txt docxtpl duckdb easyocr eccodes editdistance einops emcee equinox esda fabric faker fastai fastapi
fastparquet filelock filterpy fiona fire flair flake8 flask flax fontTools fsspec ftfy gcsfs gdown gensim
geographiclib geopandas geopy gmpy2 gmsh gpytorch gradio graphviz gseapy gunicorn gurobipy gym gymnasium h3
h5py hdbscan hdf5plugin healpy highspy hmmlearn hnswlib holoviews html2text html5lib HTSeq httpx humanize
hyperopt hypothesis igraph imageio iminuit inflect ipdb ipympl ipywidgets isort itsdangerous jax jaxlib
jaxtyping jellyfish jinja2 joblib jsonschema jupyterlab jupytext kaleido keras kiwisolver kneed kornia
kubernetes langchain langdetect lark ldap3 leidenalg Levenshtein libpysal librosa lifelines lightgbm lightning
llvmlite lmfit loguru lxml lz4 mahotas mapclassify markdown markdown2 markupsafe marshmallow matplotlib
MDAnalysis mdtraj mediapipe meshio metpy mistune mlflow mne mock modin monai moviepy mpi4py mpmath msgpack
multiprocess mypy nbclient nbconvert nbformat neo4j netaddr netCDF4 networkx nibabel nilearn nltk nose2
notebook num2words numba numexpr numpy numpyro omegaconf onnx openai openpyxl optax optuna orjson ortools
osmnx packaging pandas panel papermill paramiko passlib pathos patsy pdf2image pdfplumber peewee peft
pennylane pexpect pgmpy pika pint platformdirs playwright plotly plotnine ply polars pomegranate pooch
prettytable psutil psycopg pulp py4j py7zr pyarrow pyaudio pyautogui pybedtools pybind11 pycocotools pycountry
pycparser pycuda pydantic pydicom pydot pyfiglet pygame pygments pygraphviz pylint pymatgen pymc pymongo pymoo
pymupdf pymysql pynput pyodbc pyogrio pyomo pyopencl pyparsing pypdf PyPDF2 pyperclip pyproj PyQt5 PyQt6
pyqtgraph pyreadr pysal pysam PySide6 pytesseract pytest pytz pyvis pyvista qiskit qrcode qtpy qutip rapidfuzz
rasterio ray rdkit redis regex reportlab requests rich rioxarray rtree ruamel.yaml s3fs safetensors scanpy
scipy seaborn sentencepiece shap shapely shortuuid simplejson six sktime sortedcontainers sounddevice
soundfile spacy sphinx sqlalchemy sqlmodel sqlparse stardist starlette statsmodels streamlit sympy tables
tabulate tenacity tensorboard tensorboardX tensorflow termcolor texttable threadpoolctl tifffile tiktoken timm
tokenizers toml tomli tomlkit toolz torch torchaudio torchinfo torchio torchmetrics torchvision tox tqdm
transformers trimesh trl tslearn tweepy typer tzlocal ujson ultralytics uncertainties unidecode uproot uvicorn
virtualenv wandb watchdog webcolors websockets werkzeug wikipedia wordcloud wrapt xarray xesmf xgboost xlrd
xlsxwriter xmltodict xyzservices yfinance zarr zipp zstandard
"""

#: The package to install by the dotted name of the module.
PACKAGES: Dict[str, str] = {
    **{name: name for name in _SAME.split()},
    "_pytest": "pytest",
    "absl": "absl-py",
    "ahocorasick": "pyahocorasick",
    "airflow": "apache-airflow",
    "antlr4": "antlr4-python3-runtime",
    "argon2": "argon2-cffi",
    "async_timeout": "async-timeout",
    "atlassian": "atlassian-python-api",
    "attr": "attrs",
    "auth0": "auth0-python",
    "azure.identity": "azure-identity",
    "bayes_opt": "bayesian-optimization",
    "Bio": "biopython",
    "BioSQL": "biopython",
    "bs4": "beautifulsoup4",
    "bson": "pymongo",
    "cairo": "pycairo",
    "cattr": "cattrs",
    "charset_normalizer": "charset-normalizer",
    "comet_ml": "comet-ml",
    "confluent_kafka": "confluent-kafka",
    "corsheaders": "django-cors-headers",
    "cpuinfo": "py-cpuinfo",
    "crispy_forms": "django-crispy-forms",
    "crontab": "python-crontab",
    "Crypto": "pycryptodome",
    "Cryptodome": "pycryptodomex",
    "cups": "pycups",
    "cv2": "opencv-python",
    "databricks.sdk": "databricks-sdk",
    "databricks.sql": "databricks-sql-connector",
    "dateutil": "python-dateutil",
    "decouple": "python-decouple",
    "discord": "discord.py",
    "django_filters": "django-filter",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "elasticapm": "elastic-apm",
    "engineio": "python-engineio",
    "erfa": "pyerfa",
    "face_recognition": "face-recognition",
    "faster_whisper": "faster-whisper",
    "fitz": "PyMuPDF",
    "flask_cors": "flask-cors",
    "flask_migrate": "Flask-Migrate",
    "flask_restful": "flask-restful",
    "flask_socketio": "Flask-SocketIO",
    "freetype": "freetype-py",
    "gi": "PyGObject",
    "git": "GitPython",
    "github": "PyGithub",
    "gitlab": "python-gitlab",
    "google.auth": "google-auth",
    "google.cloud.bigquery": "google-cloud-bigquery",
    "google.cloud.storage": "google-cloud-storage",
    "google.cloud.vision": "google-cloud-vision",
    "google.oauth2": "google-auth",
    "google.protobuf": "protobuf",
    "google_auth_oauthlib": "google-auth-oauthlib",
    "googleapiclient": "google-api-python-client",
    "gprofiler": "gprofiler-official",
    "graphql": "graphql-core",
    "gridfs": "pymongo",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "haiku": "dm-haiku",
    "hamcrest": "PyHamcrest",
    "huggingface_hub": "huggingface-hub",
    "hydra": "hydra-core",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "imblearn": "imbalanced-learn",
    "import_export": "django-import-export",
    "importlib_metadata": "importlib-metadata",
    "importlib_resources": "importlib-resources",
    "jenkins": "python-jenkins",
    "jose": "python-jose",
    "jpype": "JPype1",
    "jupyter_server": "jupyter-server",
    "jupyterlab_widgets": "jupyterlab-widgets",
    "jwt": "PyJWT",
    "kafka": "kafka-python",
    "langchain_core": "langchain-core",
    "langchain_openai": "langchain-openai",
    "ldap": "python-ldap",
    "ldclient": "launchdarkly-server-sdk",
    "line_profiler": "line-profiler",
    "linkify_it": "linkify-it-py",
    "llama_cpp": "llama-cpp-python",
    "magic": "python-magic",
    "mailparser": "mail-parser",
    "markdown_it": "markdown-it-py",
    "memory_profiler": "memory-profiler",
    "ml_dtypes": "ml-dtypes",
    "more_itertools": "more-itertools",
    "mpl_toolkits": "matplotlib",
    "mysql.connector": "mysql-connector-python",
    "MySQLdb": "mysqlclient",
    "nacl": "PyNaCl",
    "nmap": "python-nmap",
    "oauth2_provider": "django-oauth-toolkit",
    "odf": "odfpy",
    "OpenGL": "PyOpenGL",
    "opensearchpy": "opensearch-py",
    "OpenSSL": "pyOpenSSL",
    "opt_einsum": "opt-einsum",
    "paho": "paho-mqtt",
    "pandas_datareader": "pandas-datareader",
    "patoolib": "patool",
    "pdfminer": "pdfminer.six",
    "PIL": "pillow",
    "piptools": "pip-tools",
    "playhouse": "peewee",
    "png": "pypng",
    "progressbar": "progressbar2",
    "pycrfsuite": "python-crfsuite",
    "pydantic_settings": "pydantic-settings",
    "pylab": "matplotlib",
    "pylsp": "python-lsp-server",
    "pymdownx": "pymdown-extensions",
    "pynvml": "nvidia-ml-py",
    "pyro": "pyro-ppl",
    "pytest_asyncio": "pytest-asyncio",
    "pytest_cov": "pytest-cov",
    "pytest_mock": "pytest-mock",
    "pythonjsonlogger": "python-json-logger",
    "pytorch_lightning": "pytorch-lightning",
    "pyviz_comms": "pyviz-comms",
    "pywt": "PyWavelets",
    "pyximport": "Cython",
    "qiskit_aer": "qiskit-aer",
    "quaternion": "numpy-quaternion",
    "rapidjson": "python-rapidjson",
    "readability": "readability-lxml",
    "requests_cache": "requests-cache",
    "requests_oauthlib": "requests-oauthlib",
    "requests_toolbelt": "requests-toolbelt",
    "rest_framework": "djangorestframework",
    "rest_framework_api_key": "djangorestframework-api-key",
    "rest_framework_simplejwt": "djangorestframework-simplejwt",
    "rpds": "rpds-py",
    "scikit_build_core": "scikit-build-core",
    "scikitplot": "scikit-plot",
    "scvi": "scvi-tools",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "semantic_version": "semantic-version",
    "sentence_transformers": "sentence-transformers",
    "serial": "pyserial",
    "shapefile": "pyshp",
    "simdjson": "pysimdjson",
    "skbio": "scikit-bio",
    "skbuild": "scikit-build",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "skopt": "scikit-optimize",
    "skvideo": "scikit-video",
    "slugify": "python-slugify",
    "smart_open": "smart-open",
    "snowflake.connector": "snowflake-connector-python",
    "social_django": "social-auth-app-django",
    "socketio": "python-socketio",
    "socks": "PySocks",
    "speech_recognition": "SpeechRecognition",
    "sphinx_rtd_theme": "sphinx-rtd-theme",
    "st_aggrid": "streamlit-aggrid",
    "stable_baselines3": "stable-baselines3",
    "stan": "pystan",
    "strawberry": "strawberry-graphql",
    "telebot": "pyTelegramBotAPI",
    "telegram": "python-telegram-bot",
    "tensorflow_probability": "tensorflow-probability",
    "torch_geometric": "torch-geometric",
    "typing_extensions": "typing-extensions",
    "umap": "umap-learn",
    "upath": "universal-pathlib",
    "usb": "pyusb",
    "websocket": "websocket-client",
    "webvtt": "webvtt-py",
    "whisper": "openai-whisper",
    "winrm": "pywinrm",
    "Xlib": "python-xlib",
    "xmlrunner": "unittest-xml-reporting",
    "yaml": "PyYAML",
    "yt_dlp": "yt-dlp",
    "z3": "z3-solver",
    "zmq": "pyzmq",
}

"""A file's name, place and content in; out whether its name, or what in its content, says that it opens something."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ray_synth.errors import InputError

# Whatever lies there.
PLACES = (
    ".aws", ".ssh", ".azure", ".gcloud", ".kube", ".docker", ".gnupg", ".ray", ".kaggle", ".password-store", ".oci",
    ".bluemix", ".ibmcloud", ".databricks", ".snowflake", ".snowsql", ".m2", ".nuget", ".pki", ".putty", ".vault",
    ".chef", ".mozilla", ".thunderbird", ".electrum", ".bitwarden", ".1password", ".cloudflared", ".terraform.d",
    ".config/gh", ".config/glab-cli", ".config/rclone", ".config/op", ".config/doctl", "ssl/private",
    ".config/gcloud",
)  # fmt: skip
# Whatever is in it.
FILES = (
    # environments and keys
    ".env", ".env.*", "*.env", "*.env.*", ".envrc", "*.envrc", "*.pem", "*.key", "*.p8", "*.p12", "*.pkcs12",
    "*.pfx", "*.jks", "*.jceks", "*.keystore", "*.truststore", "*.kdb", "*.kdbx", "*.ppk", "*.gpg", "*.pgp",
    "*.asc", "*.ovpn", "*.keytab", "*.jwk", "*.agekey", "*.keychain", "*.keychain-db", "*.tfvars", "*.tfvars.json",
    "*.tfstate*", "*.publishsettings", "*.rdp", "wg[0-9]*.conf", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
    "*[._-]rsa", "*[._-]dsa", "*[._-]ecdsa", "*[._-]ed25519", "identity", "ssh_host_*", "authorized_keys*",
    "known_hosts*", "ssh_config", "ssh-config",
    # files of tools
    ".netrc", "_netrc", "netrc", ".pgpass", "pgpass*", ".my.cnf", ".mylogin.cnf", ".npmrc", ".yarnrc*", ".pypirc",
    "*htpasswd*", ".git-credential*", "git-credentials", ".gitconfig", ".hgrc", ".dockercfg", ".dockerconfigjson",
    ".s3cfg", "s3cfg", ".boto", "boto.cfg", "*rclone.conf", ".passwd-s3fs", ".vault*", "vault_pass*", "vault-pass*",
    "vault.y*ml", ".terraformrc", "terraform.rc", ".wgetrc", ".curlrc", "_curlrc", ".fetchmailrc", ".msmtprc",
    ".esmtprc", ".muttrc", ".smbcredentials", ".smbclient.conf", ".ftpconfig", "sftp-config.json", "sftp.json",
    ".remote-sync.json", "kaggle.json", ".databrickscfg", ".comet.config", ".ossutilconfig", ".cos.conf",
    ".modal.toml", ".sentryclirc", ".cloudflared", ".ngrok*", "ngrok.y*ml", ".tokens", "stored_tokens",
    "cookies.txt", "cookies.sqlite", "cookies.json", "logins.json", "login.json", "key3.db", "key4.db",
    "wallet.dat", "*.wallet", "keyring*", "keystore.*", "shadow", "passwd", "auth.json", "auth.toml",
    "*kubeconfig*", "kube.config", "kube-config*", "admin.conf", "kubelet.conf", "rootkey.csv", "accesskeys*.csv",
    "*_accesskeys.csv", "*adminsdk*.json", "adc.json", "*oauth*.json", "msal_token_cache*", "azureprofile.json",
    "nuget.config", "settings-security.xml", ".*_history", "*.pwd", "*.pw", "*.pass",
)  # fmt: skip
AT = ("wandb/settings", ".config/hub")  # a name that says so at its place alone
SPOKEN = ("secret", "password", "passwd", "passphrase", "credential", "apikey", "serviceaccount")  # within any word
WORDS = {"creds", "cred", "passwords", "passcode", "passcodes", "htpasswd"}
KINDS_OF_KEY = {
    "access", "account", "admin", "api", "auth", "aws", "azure", "client", "deploy", "deployment", "encryption",
    "gcp", "gcs", "host", "license", "master", "openai", "private", "rsa", "sa", "service", "signing", "ssh",
    "wandb",
}  # fmt: skip
KINDS_OF_TOKEN = {
    "access", "api", "auth", "bearer", "bot", "deploy", "github", "gitlab", "hf", "huggingface", "id", "jwt",
    "login", "npm", "oauth", "personal", "pypi", "refresh", "service", "session", "slack", "telegram", "user",
    "wandb",
}  # fmt: skip
HARMLESS = ("*.example", "*.sample", "*.template", "*.dist", "*.example.*", "*.sample.*", "*.template.*")
SOURCE = (".py", ".pyi")  # a module may be about tokens
DOCUMENTS = (".md", ".rst")
SETTINGS = (".yaml", ".yml", ".toml", ".csv", ".tsv")
DATA = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".parquet", ".safetensors")
TOKENIZERS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json")  # of a model
# What detect-secrets has no form for.
FORMS = {
    "Hugging Face Token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "Google API Key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
    "Google OAuth Token": re.compile(r"\bya29\.[0-9A-Za-z_-]{20,}"),
    "Anthropic Key": re.compile(r"\bsk-ant-[0-9A-Za-z_-]{20,}"),
    "Login of a .netrc": re.compile(r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+\S+"),
    "Key of a kubeconfig": re.compile(r"\bclient-key-data:\s*\S+"),
    "Password Hash": re.compile(r":\$(?:apr1|2[aby]|5|6|y)\$\S{10,}"),
}
NOT_ASKED = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")  # every digest and address
SNIFFED = 8192  # bytes, of which none is 0 in a text


def is_secret(name: str) -> bool:
    """Whether a file's name, a path with slashes, says that it opens something."""
    path = name.lower()
    *folders, base = path.split("/")
    within = "/" + "".join(f"{folder}/" for folder in folders)
    if any(f"/{place}/" in within for place in PLACES):
        return True
    if base.endswith(SOURCE) or any(fnmatch(base, pattern) for pattern in (*TOKENIZERS, *HARMLESS)):
        return False
    if any(fnmatch(base, pattern) for pattern in FILES) or any(f"/{path}".endswith(f"/{place}") for place in AT):
        return True
    if base.endswith(DATA):
        return False  # of a class of that name
    if base.endswith(DOCUMENTS):
        return "password" in base
    return _says_so(name.rsplit("/", 1)[-1]) or any(_says_so(folder) for folder in name.split("/")[:-1])


def _says_so(name: str) -> bool:
    """Whether the words of a name do: `hf_token`, `serviceAccountKey.json`, not `token_counts` or `tokens.yaml`."""
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    words = re.findall(r"[a-z]+", apart)
    joined = "".join(words)
    if WORDS & set(words) or any(spoken in joined for spoken in SPOKEN):
        return True
    pairs = set(itertools.pairwise(words))
    if any(second in ("key", "keys") and first in KINDS_OF_KEY for first, second in pairs):
        return True
    if ("recovery", "codes") in pairs or ("backup", "codes") in pairs:
        return True
    if any(second in ("token", "tokens") and first in KINDS_OF_TOKEN for first, second in pairs):
        return True
    stem = re.findall(r"[a-z]+", apart.lstrip(".").split(".", 1)[0])
    of_people = not apart.endswith(SETTINGS)  # `class_token.yaml`: what stands in it decides
    return stem == ["token"] or (of_people and stem[-1:] == ["token"]) or words in (["tokens"], ["tokens", "json"])


def secret_within(file: Path) -> str | None:
    """What in a text opens something, and where, such as `AWS Access Key in line 3`; None where nothing does.

    Raises:
        InputError: detect-secrets, which looks, is not installed.
    """
    data = file.read_bytes()
    if b"\0" in data[:SNIFFED] or file.suffix.lower() in DATA:
        return None
    text = data.decode("utf-8", errors="replace")
    for kind, form in FORMS.items():
        if found := form.search(text):
            return f"{kind} in line {text.count(chr(10), 0, found.start()) + 1}"
    hints, plugins = _library()
    if not any(hint.search(text) for hint in hints):
        return None
    from detect_secrets.core.scan import scan_file
    from detect_secrets.settings import transient_settings

    with transient_settings({"plugins_used": plugins}):  # its filters ask nobody on the network
        found_there = min(scan_file(str(file)), key=lambda one: one.line_number, default=None)
    return f"{found_there.type} in line {found_there.line_number}" if found_there is not None else None


@functools.cache
def _library() -> tuple[Sequence[re.Pattern[str]], Sequence[dict[str, Any]]]:
    """Forms without which a text holds nothing for detect-secrets, which takes ten seconds for a megabyte; and its
    detectors."""
    try:
        from detect_secrets.core.plugins.initialize import from_plugin_classname
        from detect_secrets.plugins.keyword import DENYLIST
        from detect_secrets.settings import default_settings, get_settings
    except ImportError:
        raise InputError("submit needs detect-secrets; type pip install 'ray_synth[cluster]'") from None
    with default_settings():
        names = [name for name in get_settings().plugins if name not in NOT_ASKED]
        detectors: list[Any] = [from_plugin_classname(name) for name in names]
    hints = [re.compile("|".join(DENYLIST), re.IGNORECASE)]
    hints += [form for detector in detectors for form in getattr(detector, "denylist", ())]
    return hints, [{"name": name} for name in names]

"""What travels with a job: the files that git would take, and nothing that opens a door."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ray_synth.cluster import working_tree
from ray_synth.cluster.working_tree import is_secret, read_working_tree
from ray_synth.errors import InputError
from tests.conftest import ROOT

SECRETS = [".env", ".env.production", "keys/server.pem", "id_ed25519", "id_rsa.pub", ".aws/credentials", "hf_token",
           "my-secret.yaml", "gcp/service-account-7.json", ".ssh/config", ".ray/auth_token", "kubeconfig"]  # fmt: skip
# What tools and people call files that open something.
OPENERS = """
    id_dsa id_ecdsa_work keys/id_rsa.old .ssh/authorized_keys .ssh/known_hosts deploy_rsa github_ed25519
    ssh_host_rsa_key _netrc .netrc home/.netrc .git-credentials .gitconfig .envrc prod.env config/staging.env
    .env.local api/.env prod.env.local creds.json aws_creds.csv db-creds.yaml creds kubeconfig.yaml dev.kubeconfig
    kube/kube-config.yml .kube/config admin.conf wandb/settings .config/wandb/settings passwords.txt password.md
    my_passwords.xlsx dbpassword secrets/db.yaml secrets/api.txt .secrets/prod.json secrets.toml
    .streamlit/secrets.toml client_secret.json client_secret_123.apps.json secret secret.txt mysecrets.ini
    app-secrets.yml .s3cfg .boto .passwd-s3fs rclone.conf .config/rclone/rclone.conf service_account.json
    serviceAccountKey.json service-account.json gcp-key.json my-project-firebase-adminsdk-ab1.json
    application_default_credentials.json .config/gcloud/adc.json credentials credentials.csv credentials/prod.json
    new_user_credentials.csv rootkey.csv accessKeys.csv my_accessKeys.csv api_key.txt api-keys.yaml apikey
    openai_key.txt APIKey.txt private_key private-key.txt signing_key.json master.key config/master.key server.key
    tls/server.p12 store.pfx release.jks debug.keystore vault.kdbx putty.ppk backup.gpg me.asc corp.ovpn http.keytab
    terraform.tfvars prod.auto.tfvars terraform.tfstate terraform.tfstate.backup .terraformrc .pgpass pgpass.conf
    .my.cnf .mylogin.cnf .npmrc .yarnrc.yml .pypirc .htpasswd htpasswd .dockercfg .docker/config.json
    .dockerconfigjson auth.json .config/gh/hosts.yml .config/hub .databrickscfg .kaggle/kaggle.json kaggle.json
    .cache/huggingface/token .cache/huggingface/stored_tokens token token.txt token.json .token .vault-token
    vault_pass.txt .vault_password hf_token.txt hf-token.json huggingface_token.txt github_token access_token.json
    refresh-tokens.json auth_token bot_token.yaml api_tokens.txt slack-token.txt jwt_token oauth.json
    oauth2_client.json tokens.json .ngrok2/ngrok.yml ngrok.yml sftp-config.json .smbcredentials .fetchmailrc
    .bash_history .python_history .psql_history .azure/accessTokens.json azureProfile.json app.publishsettings
    .aws/config .oci/config .snowsql/config .gnupg/secring.gpg cookies.txt logins.json key4.db wallet.dat
    login.keychain-db passwd shadow .modal.toml .sentryclirc recovery-codes.txt wg0.conf .m2/settings.xml
    settings-security.xml .comet.config wandb_key.txt ssh-key deploy_key
""".split()  # noqa: SIM905
PLAIN = [
    "sweeps/digits.yaml",
    "sweeps/tokens.yaml",
    "sweeps/class_token.yaml",
    "ray_synth/cli.py",
    "tests/test_tokens.py",
    "mypackage/secrets.py",
    "docs/secrets.md",
    "environment.yaml",
    "keys.md",
    "keys.csv",
    "monkeys/list.csv",
    "data/list.csv",
    "data/token_counts.csv",
    "data/keyboard.yaml",
    "photos/password/1.png",
    "model/tokenizer_config.json",
    "model/special_tokens_map.json",
    "vocab/tokens.txt",
    ".env.example",
    "config/credentials.json.template",
    "accreditation.txt",
]


def plant(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


@pytest.mark.parametrize("git", [True, False])
def test_secrets_runs_and_what_git_ignores_stay_at_home(tmp_path: Path, git: bool) -> None:
    plant(tmp_path, [*SECRETS, *PLAIN, "runs/digits/summary.json", "venv/pyvenv.cfg", "venv/lib/big.bin"])
    if git:
        (tmp_path / ".gitignore").write_text("venv/\nignored.bin\n")
        plant(tmp_path, ["ignored.bin"])
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    os.symlink("/etc/hostname", tmp_path / "link")
    tree = read_working_tree(tmp_path)
    assert set(tree.files) == {*PLAIN, *([".gitignore"] if git else [])}
    assert set(tree.secrets) <= set(SECRETS)
    tree.copy_to(tmp_path / "there")
    there = {
        path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*") if path.is_file()
    }
    assert there == set(tree.files)


def test_a_secret_is_known_by_its_name_and_place() -> None:
    assert [name for name in (*SECRETS, *OPENERS) if not is_secret(name)] == []
    assert [name for name in PLAIN if is_secret(name)] == []


@pytest.mark.parametrize(
    ("said", "text"),  # apart, so that this file may travel itself
    [
        ("AWS Access Key", "key = 'AKIA" + "QYLPMN5HFIQR7XYA'"),
        ("Private Key", "-----BEGIN " + "OPENSSH PRIVATE KEY-----\nabc"),
        ("Private Key", '{"private_key": "-----BEGIN ' + 'PRIVATE KEY-----\\nMIIE"}'),
        ("GitHub Token", "token = ghp_" + "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"),
        ("Hugging Face Token", "export HF=hf_" + "QxQbkYhJmWnVxTgRzPdLcKsAeFuMiNoPqR"),
        ("Google API Key", "AIza" + "SyD4iE2xVSpkLLOXoyqT-RuPwURN3ddScAI"),
        ("Basic Auth Credentials", "url: postgres://me:" + "hunter22@db.example.org/x"),
        ("Secret Keyword", "db:\n  pass" + "word: 'correct-horse-7'"),
        ("Secret Keyword", "[s3]\nsecret_access" + "_key = wJalrXUtnFEMI7K7MDENGbPxRfiCYzzKEY1234"),
        ("Secret Keyword", "WANDB_API" + "_KEY=0123456789abcdef0123456789abcdef01234567"),
        ("Login of a .netrc", "machine api.wandb.ai\n  login user\n  pass" + "word 0123456789"),
        ("Key of a kubeconfig", "users:\n- user:\n    client-key-" + "data: LS0tLS1CRUdJTg=="),
        ("Password Hash", "me:$apr1$" + "Q8ikUfvg$SgZqrYIOSaZHPp.uD0M6p0"),
    ],
)
@pytest.mark.parametrize("name", ["notes.txt", "config/run.yaml", "tool.py"])
def test_a_secret_is_known_by_what_stands_in_it(tmp_path: Path, name: str, said: str, text: str) -> None:
    if name.endswith(".py") and "Keyword" in said:
        text = text.replace("= ", "= '").replace("=0", "='0") + "'"  # a word of a program is no password
    if said == "Secret Keyword" and name.endswith(".py") and ":" in text:
        text = text.replace(":", " =").replace("''", "'")
    plant(tmp_path, ["plain.yaml", "also.py"])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(f"first: line\n{text}\n")
    tree = read_working_tree(tmp_path)
    assert set(tree.files) == {"plain.yaml", "also.py"}
    assert said in tree.found[name]
    assert " in line " in tree.found[name]
    assert not any("hunter22" in line or "horse" in line for line in tree.kept_back())  # where, not what
    assert name in read_working_tree(tmp_path, [name]).files


def test_what_only_looks_like_one_travels(tmp_path: Path) -> None:
    plain = {
        "digests.json": '{"weights_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}',
        "lock.yaml": "package: abc\nhash: sha256-n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=\n",
        "train.sh": "export HF_TOKEN=$HF_TOKEN\npassword=${PASSWORD}\n",
        "model.py": "token = tokenizer.cls_token\npassword = os.environ['PASSWORD']\nkey = row['key']\n",
        "run.yaml": "name: tokens\ndata: {kind: npz, path: data/tokens.npz}\n",
        "hosts.txt": "10.1.2.3\n93.184.216.34\n",
        "photo.png": "\0pass" + "word: 'correct-horse-7'",
    }
    for name, text in plain.items():
        (tmp_path / name).write_text(text)
    tree = read_working_tree(tmp_path)
    assert (set(tree.files), dict(tree.found)) == (set(plain), {})


def test_what_stays_at_home_is_named_and_may_be_sent_all_the_same(tmp_path: Path) -> None:
    plant(tmp_path, [*(f"secrets/{i}.json" for i in range(9)), "a.yaml", "sub/hf_token"])
    os.symlink("/etc/hostname", tmp_path / "link")
    tree = read_working_tree(tmp_path, ["./sub/hf_token", "secrets/3.json"])
    assert tree.files == ("a.yaml", "secrets/3.json", "sub/hf_token")
    assert tree.kept_back() == [
        "not sent, for what their names say: secrets/0.json, secrets/1.json, secrets/2.json, secrets/4.json, "
        "secrets/5.json and 3 more (--dry-run names all)",
        "not sent, because they are links, or no files: link",
    ]
    assert "secrets/8.json" in tree.kept_back(None)[0]
    with pytest.raises(InputError, match=r"--allow secret/3.json is none of the files.*did you mean secrets/3.json"):
        read_working_tree(tmp_path, ["secret/3.json"])


def test_this_package_travels_whole() -> None:
    tree = read_working_tree(ROOT)
    assert not tree.secrets
    assert not tree.found
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ray_synth").rglob("*.py")}
    assert modules <= set(tree.files)
    assert {"cluster.yaml", "pyproject.toml", "sweeps/digits.yaml"} <= set(tree.files)


def test_data_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_tree, "MAX_BYTES", 2**20)
    plant(tmp_path, PLAIN)
    (tmp_path / "photos.npz").write_bytes(bytes(3 * 2**20))
    with pytest.raises(InputError, match=r"holds 3 MB to send, at most 1 MB .*photos.npz \(3 MB\).*bucket"):
        read_working_tree(tmp_path)

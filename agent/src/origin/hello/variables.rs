//! Decides which environment variables leave this machine. The lists are data; docs/semantics.md describes them.

/// What happens to a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Travel {
    Goes,
    /// Withheld: it is OS Walk's own, or the address of a service on this machine, which is useless elsewhere.
    Local,
    /// Withheld because it looks like a key, a password or a token. A program that may read it stays.
    Secret,
}

/// OS Walk's own variables. The broker's URL contains a password.
const OWN: &[u8] = b"OSWALK_";

/// Addresses of services, and related variables.
const LOCAL: [&str; 8] = [
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "GNOME_KEYRING_CONTROL",
    "KRB5CCNAME",
    "XAUTHORITY",
];

/// Variables that gcc, clang, binutils and the C library read, from the `getenv` calls in their sources. `*` at the end of
/// a name matches any suffix, at the beginning any prefix.
const COMPILERS: [&str; 70] = [
    // Locations and identity.
    "PATH",
    "HOME",
    "PWD",
    "TMPDIR",
    "TMP",
    "TEMP",
    "TEMPDIR",
    "USER",
    "LOGNAME",
    // Language, time and terminal.
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LOCPATH",
    "NLSPATH",
    "CHARSET",
    "OUTPUT_CHARSET",
    "TZ",
    "TZDIR",
    "TERM",
    "TERMINFO",
    "TERM_URLS",
    "COLORTERM",
    "COLUMNS",
    "NO_COLOR",
    "CLICOLOR*",
    "FORCE_COLOR",
    "POSIXLY_CORRECT",
    // Search paths.
    "CPATH",
    "*_INCLUDE_PATH",
    "INCLUDE",
    "LIB",
    "LPATH",
    "LIBRARY_PATH",
    "COMPILER_PATH",
    "BINUTILS_ROOT",
    "ADA_*",
    "SDKROOT",
    "DEVELOPER_DIR",
    "CUDA_PATH*",
    "HIP_*",
    "ROCM_PATH",
    "SCE_*",
    "GOPATH",
    // Behaviour.
    "GCC_*",
    "GFORTRAN_*",
    "GNAT*",
    "COLLECT_*",
    "CLANG_*",
    "FLANG_*",
    "CCC_*",
    "CC_PRINT_*",
    "CC_LOG_*",
    "LLVM_*",
    "LIBCLANG_*",
    "CINDEXTEST_*",
    "FORCE_CLANG_*",
    "DEPENDENCIES_OUTPUT",
    "SUNPRO_DEPENDENCIES",
    "SOURCE_DATE_EPOCH",
    "*_DEPLOYMENT_TARGET",
    "RC_DEBUG_OPTIONS",
    "QA_OVERRIDE_GCC3_OPTIONS",
    "GNUTARGET",
    "MAKEFLAGS",
    "MFLAGS",
    // The loader, the C library and sanitizer runtimes.
    "LD_*",
    "GLIBC_TUNABLES",
    "MALLOC_*",
    "GCONV_PATH",
    "*SAN_OPTIONS",
];

/// Words that, between underscores, mark the name of a secret.
const WORDS: [&str; 14] = [
    "PASS", "PWD", "PAT", "DSN", "KEY", "JWT", "AUTH", "LOGIN", "COOKIE", "COOKIES", "CREDS",
    "CRED", "WEBHOOK", "OTP",
];
/// Texts that mark the name of a secret at any position.
const PARTS: [&str; 11] = [
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "SECRET",
    "TOKEN",
    "CREDENTIAL",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "SSHPASS",
];
/// Prefixes of names of secrets.
const BEGINNINGS: [&str; 12] = [
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "GCP_",
    "GCLOUD_",
    "VAULT_",
    "OP_SESSION",
    "BW_SESSION",
    "KRB5",
    "GPG_",
    "SSH_PRIVATE",
    "DOCKER_AUTH",
];
/// Other names of secrets.
const NAMES: [&str; 14] = [
    "DATABASE_URL",
    "DB_URL",
    "REDIS_URL",
    "MONGO_URL",
    "MONGO_URI",
    "MONGODB_URL",
    "MONGODB_URI",
    "POSTGRES_URL",
    "MYSQL_URL",
    "AMQP_URL",
    "RABBITMQ_URL",
    "CELERY_BROKER_URL",
    "KUBECONFIG",
    "CI_JOB_JWT",
];
/// Names that only look like those of secrets.
const HARMLESS: [&str; 14] = [
    "PWD",
    "OLDPWD",
    "FAKEROOTKEY",
    "STARSHIP_SESSION_KEY",
    "GPG_TTY",
    "SSH_ASKPASS",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PAGER",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_DEFAULT_OUTPUT",
    "AWS_CA_BUNDLE",
    "AWS_EC2_METADATA_DISABLED",
];
/// Prefixes of values that are secrets under any name.
const VALUES: [&str; 9] =
    ["-----BEGIN ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xoxb-"];
/// Most bytes of a name that are examined.
const NAME_BYTES: usize = 128;

/// Splits a variable into name and value.
pub(super) fn parts(variable: &[u8]) -> (&[u8], &[u8]) {
    // The C library allows a name to begin with an equals sign.
    match variable.iter().skip(1).position(|&byte| byte == b'=') {
        Some(before) => (&variable[..=before], &variable[before + 2..]),
        None => (variable, b""),
    }
}

/// Decides what happens to a variable.
pub(super) fn travel(variable: &[u8]) -> Travel {
    let (name, value) = parts(variable);
    if is_own(name) || LOCAL.iter().any(|local| local.as_bytes() == name) {
        Travel::Local
    } else if !value.is_empty() && (has_secret_name(name) || has_secret_value(value)) {
        Travel::Secret
    } else {
        Travel::Goes
    }
}

/// Tells whether a variable is OS Walk's own.
pub(super) fn is_own(name: &[u8]) -> bool {
    name.starts_with(OWN)
}

/// Tells whether compilers read a variable. Names of passwords are excluded even if a pattern matches them.
pub(super) fn is_for_compilers(name: &[u8]) -> bool {
    COMPILERS.iter().map(|pattern| pattern.as_bytes()).any(|pattern| {
        // The first letter rules out most names.
        match (pattern.first(), pattern.last()) {
            (Some(b'*'), _) => name.ends_with(&pattern[1..]),
            (first, _) if first != name.first() => false,
            (_, Some(b'*')) => name.starts_with(&pattern[..pattern.len() - 1]),
            _ => name == pattern,
        }
    }) && !has_secret_name(name)
}

fn has_secret_name(name: &[u8]) -> bool {
    let mut upper = [0; NAME_BYTES];
    let bytes = name.len().min(NAME_BYTES);
    let upper = &mut upper[..bytes];
    upper.copy_from_slice(&name[..bytes]);
    upper.make_ascii_uppercase();
    let name = &*upper;
    let is = |names: &[&str]| names.iter().any(|other| other.as_bytes() == name);
    let has_word = || {
        let mut words = name.split(|byte| !byte.is_ascii_alphanumeric());
        words.any(|word| WORDS.iter().any(|secret| secret.as_bytes() == word))
    };
    !is(&HARMLESS)
        && (is(&NAMES)
            || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
            || has_word()
            || PARTS.iter().any(|part| contains(name, part.as_bytes())))
}

/// Tells whether a value is a key, or a URL with a password.
fn has_secret_value(value: &[u8]) -> bool {
    if VALUES.iter().any(|beginning| value.starts_with(beginning.as_bytes())) {
        return true;
    }
    let Some(at) = value.windows(3).position(|window| window == b"://") else { return false };
    let rest = &value[at + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#' | b' '));
    let authority = &rest[..end.unwrap_or(rest.len())];
    let user = authority.iter().rposition(|&byte| byte == b'@').map(|at| &authority[..at]);
    user.is_some_and(|user| user.contains(&b':'))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_by_their_names() {
        for name in [
            "DATABASE_URL",
            "MONGODB_URI",
            "GITHUB_PAT",
            "GH_TOKEN",
            "GITLAB_PAT",
            "NPM_TOKEN",
            "NPM_AUTH",
            "npm_config__authToken",
            "NPM_CONFIG__AUTH",
            "TOKEN",
            "PASSWORD",
            "SECRET",
            "API_KEY",
            "APIKEY",
            "OPENAI_API_KEY",
            "OPENAI_KEY",
            "STRIPE_KEY",
            "PGPASSWORD",
            "MYSQL_PWD",
            "REDISCLI_AUTH",
            "SSHPASS",
            "DB_PASS",
            "DB_PASSWD",
            "SECRET_KEY_BASE",
            "JWT_SECRET",
            "PRIVATE_KEY",
            "DEPLOY_KEY",
            "AWS_ACCESS_KEY_ID",
            "AZURE_CLIENT_SECRET",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GCP_SA_KEY",
            "DOCKER_AUTH_CONFIG",
            "KUBECONFIG",
            "VAULT_ADDR",
            "CI_JOB_JWT",
            "ACTIONS_ID_TOKEN_REQUEST_URL",
            "SENTRY_DSN",
            "SLACK_WEBHOOK_URL",
            "CARGO_REGISTRIES_X_CREDENTIAL",
            "SONAR_LOGIN",
            "BASIC_AUTH",
            "GPG_PASSPHRASE",
            "RESTIC_PASSWORD_COMMAND",
            "ANSIBLE_VAULT_PASS",
            "OP_SESSION_my",
            "BW_SESSION",
            "token",
            "db_password",
            "SENTRY_API_KEY",
        ] {
            assert_eq!(travel(format!("{name}=x").as_bytes()), Travel::Secret, "{name}");
            // An empty value reveals nothing.
            assert_eq!(travel(format!("{name}=").as_bytes()), Travel::Goes, "{name}");
        }
    }

    #[test]
    fn secrets_by_their_values() {
        for variable in [
            "http_proxy=http://u:p@proxy:3128",
            "PIP_INDEX_URL=https://user:pass@host/simple?x=@",
            "X=postgres://u:p@h/db",
            "X=ghp_0123456789",
            "X=-----BEGIN RSA PRIVATE KEY-----\nAAAA",
        ] {
            assert_eq!(travel(variable.as_bytes()), Travel::Secret, "{variable}");
        }
    }

    #[test]
    fn other_variables_are_sent() {
        for variable in [
            "PATH=/bin",
            "PWD=/x",
            "OLDPWD=/y",
            "CARGO_PKG_AUTHORS=a",
            "CARGO_PKG_REPOSITORY=https://github.com/a/b",
            "X=https://h/a:b@c",
            "X=ssh://git@host/r",
            "KEYBOARD=us",
            "COMPASS=n",
            "PATTERN=x",
            "MONKEY=1",
            "LS_COLORS=a=1:b=2",
            "XDG_SESSION_ID=1",
            "SSH_CONNECTION=1 2",
            "AUTHOR=me",
            "AWS_REGION=x",
            "AWS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt",
            "STARSHIP_SESSION_KEY=1",
            "=",
            "",
            "=x=y",
        ] {
            assert_eq!(travel(variable.as_bytes()), Travel::Goes, "{variable}");
        }
        for variable in
            ["SSH_AUTH_SOCK=/x", "OSWALK_BROKER=redis://:x@h", "DBUS_SESSION_BUS_ADDRESS=unix:x"]
        {
            assert_eq!(travel(variable.as_bytes()), Travel::Local, "{variable}");
        }
    }

    #[test]
    fn variables_of_compilers() {
        for name in [
            "PATH",
            "LC_ALL",
            "CPLUS_INCLUDE_PATH",
            "GCC_COLORS",
            "MACOSX_DEPLOYMENT_TARGET",
            "UBSAN_OPTIONS",
        ] {
            assert!(is_for_compilers(name.as_bytes()), "{name}");
        }
        for name in [
            "DISPLAY",
            "CFLAGS",
            "GITHUB_TOKEN",
            "PATHS",
            "EDITOR",
            "QA_DB_USER",
            "LLVM_SECRET_KEY",
            "GCC_TOKEN",
            "CUDA_REGISTRY_TOKEN",
        ] {
            assert!(!is_for_compilers(name.as_bytes()), "{name}");
        }
    }
}

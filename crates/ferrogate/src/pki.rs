// SPDX-License-Identifier: Apache-2.0
//! `ferrogate pki`: a certificate authority of one's own, and certificates signed by it
//! for controllers and runtimes, so that mutual TLS takes one command. Private keys are
//! readable by their owner only and are never overwritten.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::cli::{Exit, PkiFlags};
use crate::output;

const CA_YEARS: i32 = 10;
const MAX_DAYS: u32 = 3650;
const CA_NAME: &str = "ferrogate";
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Makes the files.
pub fn run(flags: &PkiFlags) -> anyhow::Result<Exit> {
    if flags.days == 0 || flags.days > MAX_DAYS {
        bail!("--days must be 1 to {MAX_DAYS}");
    }
    let out = &flags.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let issuer = authority(out)?;
    for controller in &flags.controller {
        let (name, hosts) = controller.split_once('=').unwrap_or((controller, ""));
        let mut names =
            vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), name.to_owned()];
        names.extend(hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned));
        issue(out, &issuer, name, names, ExtendedKeyUsagePurpose::ServerAuth, flags.days)?;
    }
    for name in &flags.runtime {
        issue(out, &issuer, name, vec![name.clone()], ExtendedKeyUsagePurpose::ClientAuth, flags.days)?;
    }
    Ok(Exit::Done)
}

/// The authority in this folder, made when there is none.
fn authority(out: &Path) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let (certificate, key) = (out.join("ca.crt"), out.join("ca.key"));
    if certificate.exists() && key.exists() {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let pair = KeyPair::from_pem(&read(&key)?).with_context(|| format!("{} is no key", key.display()))?;
        return Issuer::from_ca_cert_pem(&read(&certificate)?, pair)
            .with_context(|| format!("{} is no certificate of an authority", certificate.display()));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{CA_NAME} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let today = today()?;
    (params.not_before, params.not_after) =
        (date_time_ymd(today.year, 1, 1), date_time_ymd(today.year + CA_YEARS, 12, 31));
    let pair = KeyPair::generate()?;
    let signed = params.self_signed(&pair)?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&certificate, &signed.pem(), 0o644)?;
    Ok(Issuer::new(params, pair))
}

fn issue(
    out: &Path,
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
    days: u32,
) -> anyhow::Result<()> {
    if name.is_empty() || !name.chars().all(|symbol| symbol.is_ascii_alphanumeric() || "-_.".contains(symbol))
    {
        bail!("\"{name}\" cannot name a certificate: use letters, digits, '-', '_' and '.'");
    }
    let mut params =
        CertificateParams::new(names).with_context(|| format!("{name}: a host name is not one"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let today = today()?;
    params.not_before = date_time_ymd(today.year, today.month, today.day);
    params.not_after =
        params.not_before + std::time::Duration::from_secs((u64::from(days) + 1) * DAY_SECONDS);
    let pair = KeyPair::generate()?;
    let signed = params.signed_by(&pair, issuer)?;
    write(&out.join(format!("{name}.key")), &pair.serialize_pem(), 0o600)?;
    write(&out.join(format!("{name}.crt")), &signed.pem(), 0o644)
}

/// Writes a new file; one that is there is somebody's identity and stays.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(output::line(&path.display().to_string())?)
}

struct Day {
    year: i32,
    month: u8,
    day: u8,
}

fn today() -> anyhow::Result<Day> {
    let date = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let part = |number: i8| u8::try_from(number).context("the clock is wrong");
    Ok(Day { year: i32::from(date.year()), month: part(date.month())?, day: part(date.day())? })
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::cli::PkiFlags;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn certificates_are_made_once_and_signed_by_one_authority() {
        let dir = tempfile::tempdir().unwrap();
        let flags = |controller: &[&str], runtime: &[&str]| PkiFlags {
            out: dir.path().to_owned(),
            controller: controller.iter().map(|name| (*name).to_owned()).collect(),
            runtime: runtime.iter().map(|name| (*name).to_owned()).collect(),
            days: 30,
        };
        run(&flags(&["c1=ctl.example.com,10.0.0.1"], &[])).unwrap();
        let authority = std::fs::read(dir.path().join("ca.crt")).unwrap();
        run(&flags(&[], &["r1"])).unwrap();
        assert_eq!(std::fs::read(dir.path().join("ca.crt")).unwrap(), authority);
        for name in ["ca.key", "c1.key", "r1.key"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let again = run(&flags(&["c1"], &[])).unwrap_err();
        assert!(format!("{again:#}").contains("c1.key"), "{again:#}");
        assert!(run(&flags(&["../c2"], &[])).is_err());
    }
}

//! An authority of the test's own gives certificates, good and bad ones, as cosign would use them.

use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType, SerialNumber,
};
use serde_json::json;

const NAME: &str = "https://code.test/team/app/.workflows/release.yml@refs/heads/main";
const PAYLOAD: &[u8] = b"what is signed";
/// In the middle of a certificate's time.
const THEN: u64 = 1_800_000_000;

struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn root() -> Root {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let pem = params.self_signed(&key).unwrap().pem();
    Root { issuer: Issuer::new(params, key), pem }
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A certificate for ten minutes around [`THEN`], and its key.
fn certificate(root: &Root, change: impl FnOnce(&mut CertificateParams)) -> (Certificate, EcdsaKeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.serial_number = Some(SerialNumber::from(7));
    params.subject_alt_names = vec![SanType::URI(NAME.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let time = |seconds: u64| time::OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap();
    (params.not_before, params.not_after) = (time(THEN - 300), time(THEN + 300));
    change(&mut params);
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
    (params.signed_by(&key, &root.issuer).unwrap(), pair)
}

fn sign(pair: &EcdsaKeyPair, bytes: &[u8]) -> Vec<u8> {
    pair.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec()
}

fn signed(certificate: Option<&Certificate>, bundle: Option<String>) -> Signed {
    let digest = "0".repeat(64).parse().unwrap();
    Signed {
        payload: crate::job::Blob { digest, size: 1 },
        signature: String::new(),
        certificate: certificate.map(Certificate::pem),
        chain: None,
        bundle,
    }
}

fn trusting(root: &Root) -> Authority {
    Authority::new(&root.pem, vec!["someone@team.test".into(), NAME.into()], None, None).unwrap()
}

#[test]
fn a_certificate_of_the_authority_in_a_trusted_name_counts() {
    let root = root();
    let authority = trusting(&root);
    let (own, key) = certificate(&root, |_| ());
    let good = sign(&key, PAYLOAD);
    let verify = |certificate, payload: &[u8], signature: &[u8], when| {
        authority.verify(payload, signature, &signed(certificate, None), at(when))
    };
    assert_eq!(verify(Some(&own), PAYLOAD, &good, THEN), Ok(()));
    let (mail, mail_key) = certificate(&root, |params| {
        params.subject_alt_names = vec![SanType::Rfc822Name("someone@team.test".try_into().unwrap())];
    });
    assert_eq!(verify(Some(&mail), PAYLOAD, &sign(&mail_key, PAYLOAD), THEN), Ok(()));

    assert_eq!(verify(None, PAYLOAD, &good, THEN), Err(AuthorityError::NoCertificate));
    assert_eq!(verify(Some(&own), b"another", &good, THEN), Err(AuthorityError::Signature));
    assert_eq!(verify(Some(&mail), PAYLOAD, &good, THEN), Err(AuthorityError::Signature));
    for late in [THEN - 301, THEN + 301, 0] {
        assert!(matches!(verify(Some(&own), PAYLOAD, &good, late), Err(AuthorityError::Chain(_))), "{late}");
    }
    // Another authority's, for the same name; one that is for servers; one that would be an authority itself.
    let (foreign, foreign_key) = certificate(&self::root(), |_| ());
    let (server, server_key) = certificate(&root, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let (above, above_key) = certificate(&root, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    for (bad, key) in [(&foreign, &foreign_key), (&server, &server_key), (&above, &above_key)] {
        let got = verify(Some(bad), PAYLOAD, &sign(key, PAYLOAD), THEN);
        assert!(matches!(got, Err(AuthorityError::Chain(_))), "{got:?}");
    }
    let (other, other_key) = certificate(&root, |params| {
        let name = format!("{NAME}.evil.test");
        params.subject_alt_names = vec![SanType::URI(name.as_str().try_into().unwrap())];
    });
    let got = verify(Some(&other), PAYLOAD, &sign(&other_key, PAYLOAD), THEN);
    assert!(matches!(got, Err(AuthorityError::Name(_))), "{got:?}");
    let broken = Signed { certificate: Some("no PEM".into()), ..signed(None, None) };
    assert_eq!(authority.verify(PAYLOAD, &good, &broken, at(THEN)), Err(AuthorityError::Certificate));
}

#[test]
fn who_vouched_for_the_name_counts_where_it_is_asked_for() {
    let root = root();
    let by = |issuer: &str| {
        let text = [&[0x0c, issuer.len() as u8], issuer.as_bytes()].concat();
        let oid = [1, 3, 6, 1, 4, 1, 57264, 1, 8];
        certificate(&root, |params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, text)];
        })
    };
    let issuer = Some("https://id.test".to_owned());
    let authority = Authority::new(&root.pem, vec![NAME.into()], issuer, None).unwrap();
    let verify = |(certificate, key): (Certificate, EcdsaKeyPair)| {
        authority.verify(PAYLOAD, &sign(&key, PAYLOAD), &signed(Some(&certificate), None), at(THEN))
    };
    assert_eq!(verify(by("https://id.test")), Ok(()));
    assert_eq!(verify(by("https://id.test.evil")), Err(AuthorityError::Issuer));
    assert_eq!(verify(certificate(&root, |_| ())), Err(AuthorityError::Issuer));
}

#[test]
fn a_log_tells_when_it_was_signed() {
    let root = root();
    let log = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let other_log = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let public = PublicKey(log.public_key().as_ref().try_into().unwrap());
    let authority = Authority::new(&root.pem, vec![NAME.into()], None, Some(public)).unwrap();
    let (own, key) = certificate(&root, |_| ());
    let (twin, _) = certificate(&root, |_| ());
    let good = sign(&key, PAYLOAD);
    let bundle = |log: &EcdsaKeyPair, payload: &[u8], certificate: &Certificate, time: u64| {
        let body = json!({ "apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
            "data": { "hash": { "algorithm": "sha256", "value": Digest::of(&Sha256::digest(payload)).as_str() } },
            "signature": { "content": STANDARD.encode(&good),
                "publicKey": { "content": STANDARD.encode(certificate.pem()) } } } });
        let body = STANDARD.encode(body.to_string());
        let canonical = format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"ab","logIndex":3}}"#);
        let promise = STANDARD.encode(sign(log, canonical.as_bytes()));
        // In another order, and with spaces: what is signed is the canonical form.
        format!(
            r#"{{ "SignedEntryTimestamp": "{promise}", "Payload":
            {{ "logIndex": 3, "logID": "ab", "integratedTime": {time}, "body": "{body}" }} }}"#
        )
    };
    // Long after the certificate: the log knows when.
    let verify = |bundle: Option<String>| {
        authority.verify(PAYLOAD, &good, &signed(Some(&own), bundle), at(THEN + 1_000_000))
    };
    assert_eq!(verify(Some(bundle(&log, PAYLOAD, &own, THEN))), Ok(()));
    assert!(matches!(verify(Some(bundle(&log, PAYLOAD, &own, THEN + 400))), Err(AuthorityError::Chain(_))));
    let good_bundle = bundle(&log, PAYLOAD, &own, THEN);
    let bad = [
        None,
        Some("{}".to_owned()),
        Some(bundle(&other_log, PAYLOAD, &own, THEN)),
        Some(bundle(&log, b"another", &own, THEN)),
        Some(bundle(&log, PAYLOAD, &twin, THEN)),
        // A time of somebody else's choice.
        Some(good_bundle.replace(&THEN.to_string(), &(THEN + 1).to_string())),
    ];
    for (number, bundle) in bad.into_iter().enumerate() {
        let got = verify(bundle);
        assert!(matches!(got, Err(AuthorityError::Log(_))), "{number}: {got:?}");
    }
}

#[test]
fn an_authority_needs_certificates_and_names() {
    let root = root();
    let new = |pem: &str, names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Authority::new(pem, names, None, None).map(drop)
    };
    assert_eq!(new(&root.pem, &["a@b.test"]), Ok(()));
    assert_eq!(new(&root.pem, &[]), Err(AuthorityError::Nobody));
    assert_eq!(new("", &["a@b.test"]), Err(AuthorityError::Roots));
    let (leaf, _) = certificate(&root, |_| ());
    assert_eq!(new(&leaf.pem(), &["a@b.test"]), Err(AuthorityError::Roots));
    assert_eq!(new(&root.pem.replace("MII", "NII"), &["a@b.test"]), Err(AuthorityError::Roots));
}

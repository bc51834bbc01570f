"""The gateway for language codes: what is read, what is refused and with which words, and that nothing is lost."""

import importlib.resources
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langcodes.data_dicts import LANGUAGE_ALPHA3, LANGUAGE_ALPHA3_BIBLIOGRAPHIC

from emsmine import languages
from emsmine.errors import ConfigError, LanguageError
from emsmine.languages import EMS_CODES, name, pair, pair_name, resolve, short

# Written by hand from ISO 639-3, ISO 15924 and the list of languages in Mao, Chu & Kurohashi 2024: directory names and
# checkpoints depend on these, so a new release of langcodes must not change them.
EMS_CANONICAL = """
    af=afr_Latn ar=ara_Arab bg=bul_Cyrl bn=ben_Beng ca=cat_Latn cs=ces_Latn da=dan_Latn de=deu_Latn el=ell_Grek
    en=eng_Latn eo=epo_Latn es=spa_Latn et=est_Latn eu=eus_Latn fa=fas_Arab fi=fin_Latn fr=fra_Latn gl=glg_Latn
    gu=guj_Gujr he=heb_Hebr hi=hin_Deva hr=hrv_Latn hu=hun_Latn hy=hye_Armn id=ind_Latn it=ita_Latn ja=jpn_Jpan
    jv=jav_Latn ka=kat_Geor kk=kaz_Cyrl ko=kor_Kore ku=kur_Latn lt=lit_Latn lv=lav_Latn ml=mal_Mlym mn=mon_Cyrl
    mr=mar_Deva ms=msa_Latn mk=mkd_Cyrl my=mya_Mymr nb=nob_Latn nl=nld_Latn pl=pol_Latn pt=por_Latn ro=ron_Latn
    ru=rus_Cyrl sk=slk_Latn sl=slv_Latn sq=sqi_Latn sr=srp_Cyrl sv=swe_Latn sw=swa_Latn ta=tam_Taml te=tel_Telu
    th=tha_Thai tl=tgl_Latn tr=tur_Latn uk=ukr_Cyrl ur=urd_Arab vi=vie_Latn yo=yor_Latn zh=zho_Hans
"""
EMS = dict(entry.split("=") for entry in EMS_CANONICAL.split())

# canonical=other forms of it, as corpora, models and tools write them.
ALIASES = """
    eng_Latn=en,EN,eng,en-US,en_GB,eng-Latn,ENG_LATN,eng_latn,en-UK,en-001,en-u-ca-gregory
    deu_Latn=de,deu,ger,de-DE,de_AT,de-1901,de-Latf,deu-Latn
    zho_Hans=zh,zho,chi,cmn,cmn_Hans,zh-CN,zh-SG,zh-Hans,zh_hans,zh-Hans-TW,zh-cmn
    zho_Hant=zh-TW,zh-HK,zh-MO,zh_hant,zh-Hant-HK,cmn_Hant,zh-cmn-Hant
    yue_Hant=yue,zh-yue,yue-HK
    yue_Hans=yue-CN,yue_Hans
    nob_Latn=no,nor,nb,nob,no-NO,nb_NO,nor_Latn
    nno_Latn=nn,nno,nn-NO
    tgl_Latn=tl,tgl,fil,fil-PH
    heb_Hebr=he,heb,iw,he-IL
    ind_Latn=id,ind,in
    jav_Latn=jv,jav,jw
    yid_Hebr=yi,yid,ji,ydd
    ron_Latn=ro,ron,rum,mo,mol
    srp_Cyrl=sr,srp,sr-Cyrl,sr-RS
    srp_Latn=sr-Latn,srp_Latn,sr-ME,sr_latn_rs
    ara_Arab=ar,ara,arb,arb_Arab,ar-EG
    arz_Arab=arz
    fas_Arab=fa,fas,per,pes,prs,fa-AF
    msa_Latn=ms,msa,may,zsm
    lav_Latn=lv,lav,lvs
    ltg_Latn=ltg
    est_Latn=et,est,ekk
    swa_Latn=sw,swa,swh
    kur_Latn=ku,kur,kmr,kmr_Latn
    ckb_Arab=ckb,ckb_Arab,ckb-IQ
    kur_Arab=ku-Arab
    uzb_Latn=uz,uzb,uzn
    uzb_Cyrl=uz-Cyrl,uzn_Cyrl
    uzs_Arab=uzs
    aze_Latn=az,aze,azj
    azb_Arab=azb
    por_Latn=pt,por,pt-BR,pt_PT,pt_br
    kor_Kore=ko,kor,kor_Hang,ko-KR
    jpn_Jpan=ja,jpn,jpn_Jpan
    urd_Arab=ur,ur-Aran
    pan_Guru=pa,pan,pa-Guru-PK
    kaz_Cyrl=kk,kaz,kk-Cyrl-CN
    kaz_Arab=kk-CN,kk-Arab
    pan_Arab=pa-PK,pa-Arab
    pbt_Arab=pbt
    mon_Cyrl=mn,mon,khk
    nep_Deva=ne,nep,npi
    ori_Orya=or,ori,ory
    sqi_Latn=sq,sqi,alb,als
    orv_Cyrl=orv
    hbo_Hebr=hbo
    ber_Latn=ber
    nan_Hans=nan,zh-min-nan
    jbo_Latn=jbo,art-lojban
    bho_Deva=bh,bho
    ase_Sgnw=ase,sgn-US
"""
ALIAS_CASES = [
    (alias, canonical)
    for canonical, aliases in (entry.split("=") for entry in ALIASES.split())
    for alias in aliases.split(",")
]

# Languages that py3langid's model, Tatoeba v1 and FLORES-200 label by a bare code that CLDR has no script for.
NO_CLDR_SCRIPT = "acm acq ajp ang azb ber cbk cjk dik gcf hbo ile lfn lus max nov orv pbt quy tzl uzs"


def registered() -> list[dict[str, str]]:
    """Read the language records of the IANA registry that langcodes ships."""
    registry = importlib.resources.files("langcodes") / "data" / "language-subtag-registry.txt"
    records = registry.read_text(encoding="utf-8").split("%%\n")
    fields = [dict(re.findall(r"(?m)^([\w-]+): (.*)$", record)) for record in records]
    return [record for record in fields if record.get("Type") == "language" and ".." not in record["Subtag"]]


def refusal(code: str) -> str:
    with pytest.raises(LanguageError) as caught:
        resolve(code)
    return str(caught.value)


def pair_refusal(code: str) -> str:
    with pytest.raises(LanguageError) as caught:
        pair(code)
    return str(caught.value)


def test_ems_languages_keep_their_canonical_codes() -> None:
    assert len(EMS_CODES) == 62
    assert {code: resolve(code) for code in EMS_CODES} == EMS
    assert [short(canonical) for canonical in EMS.values()] == list(EMS)
    assert len({name(code) for code in EMS_CODES}) == 62


@pytest.mark.parametrize(("alias", "canonical"), ALIAS_CASES)
def test_alias(alias: str, canonical: str) -> None:
    assert resolve(alias) == canonical
    assert resolve(f" {alias.upper()}\n") == canonical
    assert resolve(alias.lower()) == canonical


@pytest.mark.parametrize("code", NO_CLDR_SCRIPT.split())
def test_labels_of_corpora_and_models_resolve(code: str) -> None:
    assert resolve(resolve(code)) == resolve(code)


def test_every_registered_language_round_trips() -> None:
    codes = {record["Subtag"] for record in registered()}
    codes |= {*LANGUAGE_ALPHA3.values(), *LANGUAGE_ALPHA3_BIBLIOGRAPHIC.values()}
    forms = {form for code in codes for form in (code, f"{code}_Latn", f"{code}-Cyrl", f"{code}_Arab")}
    canonical = {languages._canonical_or_none(form) for form in forms} - {None}
    bare = {languages._canonical_or_none(code) for code in codes} - {None}
    # langcodes 3.5.1: 1,338 languages with a known script, 23,864 canonical codes in all.
    assert len(codes) > 8000
    assert len(bare) > 1200
    assert len(canonical) > 20_000
    for code in canonical:
        assert code is not None
        assert re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", code)
        assert resolve(code) == code
        assert resolve(short(code)) == code
        assert short(short(code)) == short(code)


def test_groups_of_languages_are_those_of_the_registry() -> None:
    groups = {record["Subtag"] for record in registered() if record.get("Scope") == "collection"}
    assert groups - languages._GROUPS == {"ber", "bh", "him"}
    # The registry may grow; none of ours may be a plain language in it.
    assert not languages._GROUPS & {record["Subtag"] for record in registered() if "Scope" not in record}
    for code in languages._GROUPS:
        assert "group of languages" in refusal(f"{code}_Latn")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("mul", "one language code per side"),
        ("und", "undetermined"),
        ("und_Latn", "undetermined"),
        ("root", "no language"),
        ("mis", "without a code"),
        ("ZXX", "no linguistic content"),
        ("qaa", "private-use"),
        ("qtz-Latn", "private-use"),
        ("en-x-corpus", "private-use"),
        ("i-default", "private-use"),
        ("hbs", "use hr, sr or bs"),
        ("sh", "use hr, sr or bs"),
        ("hbs_Latn", "use hr, sr or bs"),
        ("sla", "group of languages"),
        ("zho_Hani", "use zho_Hans or zho_Hant"),
        ("en-Zzzz", "names no script"),
        ("en-Qaaa", "names no script"),
        ("aaa", "as in aaa_Latn"),
        ("oj", "as in oji_Latn"),
        ("de-en", "pair of languages"),
        ("deu_Latn-eng_Latn", "pair of languages"),
        ("deu-eng", "pair of languages"),
        ("en-xyz", "did you mean en"),
    ],
)
def test_what_names_no_single_language_is_refused_with_a_reason(code: str, words: str) -> None:
    message = refusal(code)
    assert words in message
    assert repr(code) in message


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("german", "de (German)?"),
        ("Deutsch", "de (German)?"),
        ("germn", "de (German)?"),
        ("english", "en (English)?"),
        ("chinese", "zh (Chinese)?"),
        ("mandarin", "zh (Chinese)?"),
        ("traditional chinese", "zh-Hant (Chinese (Traditional))?"),
        ("norwegian", "nb (Norwegian Bokmål)?"),
        ("portugese", "pt (Portuguese)?"),
        ("jp", "ja (Japanese)?"),
        ("cz", "cs (Czech)?"),
        ("cn", "zh (Chinese)?"),
        ("__label__en", "en (English)?"),
        ("__label__eng_Latn", "en (English)?"),
        ("en_US.UTF-8", "en (English)?"),
        ("deu_Latm", "de (German)?"),
        ("deu-eng-fra", "de (German)?"),
        ("en--US", "en (English)?"),
        ("dex", "de (German)"),
    ],
)
def test_an_unknown_code_names_the_nearest(code: str, meant: str) -> None:
    assert f"unknown code {code!r}; did you mean {meant}" in refusal(code)


@pytest.mark.parametrize("code", ["xx", "xxx", "", " ", "-", "_", "a", "62", "us", "ｄｅ", "İn", "x-foo", "zzzzzzzz"])
def test_an_unknown_code_without_neighbours_guesses_nothing(code: str) -> None:
    assert refusal(code) == f"language: unknown code {code!r} (list them with: emsmine langs)"


@pytest.mark.parametrize("code", [None, 1, b"de", ("de",)])
def test_what_is_no_text_is_no_code(code: Any) -> None:
    with pytest.raises(LanguageError, match="is no code of a language; give a string, as in 'de'"):
        resolve(code)


def test_a_long_code_is_cut_in_the_message() -> None:
    assert len(refusal("x" * 100_000)) < 200
    assert len(pair_refusal("x-" * 50_000)) < 250


def test_control_characters_never_reach_the_terminal() -> None:
    for code in ("\x1b[31mde", "\x00000", "german\x00", "\ud800abc", "de\u202ede", "\xff" * 9):
        assert refusal(code).isprintable()
    assert pair_refusal("en-\x1b[31m-\nde-fr").isprintable()


def test_look_alike_letters_are_not_read() -> None:
    # The Kelvin sign, which `lower` turns into k.
    assert "unknown code" in refusal("\u212ao")


def test_an_error_is_a_usage_error() -> None:
    assert issubclass(LanguageError, ConfigError)
    assert LanguageError.exit_code == 2


# Letters, separators and scripts in all sorts of combinations, most of them wrong.
pieces = st.sampled_from(
    [*EMS_CODES, "eng", "Latn", "Hant", "Cyrl", "Zzzz", "BR", "TW", "419", "x", "u", "und", "mul", "qaa", "", "é"]
)
near_codes = st.builds(lambda parts, joint: joint.join(parts), st.lists(pieces, max_size=4), st.sampled_from("-_ /."))


@settings(deadline=None, max_examples=300)
@given(st.one_of(near_codes, st.text(max_size=20)))
def test_any_text_is_a_safe_code_or_a_language_error(text: str) -> None:
    try:
        canonical = resolve(text)
    except LanguageError as refused:
        message = str(refused)
    else:
        assert re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", canonical)
        assert resolve(short(canonical)) == resolve(canonical) == canonical
        # The language is the one that was written, not another.
        assert resolve(re.split("[-_]", text.strip())[0]).split("_")[0] == canonical.split("_")[0]
        return
    assert message.isprintable()
    assert message.startswith("language: ")


@settings(deadline=None, max_examples=300)
@given(st.one_of(near_codes, st.text(max_size=20)))
def test_any_text_is_a_pair_or_a_language_error(text: str) -> None:
    try:
        left, right = pair(text)
    except LanguageError as refused:
        message = str(refused)
    else:
        assert left != right
        assert pair(f"{left}-{right}") == (left, right)
        return
    assert message.isprintable()
    assert message.startswith("language pair")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("de-en", "deu_Latn eng_Latn"),
        ("en-de", "eng_Latn deu_Latn"),
        ("EN-DE", "eng_Latn deu_Latn"),
        ("deu-eng", "deu_Latn eng_Latn"),
        ("deu_Latn-eng_Latn", "deu_Latn eng_Latn"),
        ("DEU_LATN-ENG_LATN", "deu_Latn eng_Latn"),
        ("eng-Latn-deu-Latn", "eng_Latn deu_Latn"),
        ("zh-Hant-en", "zho_Hant eng_Latn"),
        ("zh-hant-en", "zho_Hant eng_Latn"),
        ("ZH-HANT-EN", "zho_Hant eng_Latn"),
        ("en-zh-Hant", "eng_Latn zho_Hant"),
        ("zh-zh-Hant", "zho_Hans zho_Hant"),
        ("sr-Latn-sr", "srp_Latn srp_Cyrl"),
        ("zh-TW-en", "zho_Hant eng_Latn"),
        ("en-zh-TW", "eng_Latn zho_Hant"),
        ("pt-BR-en", "por_Latn eng_Latn"),
        ("en-pt-BR", "eng_Latn por_Latn"),
        ("en-US-pt-BR", "eng_Latn por_Latn"),
        ("pt_br-en", "por_Latn eng_Latn"),
        ("en-pt_br", "eng_Latn por_Latn"),
        ("br-en", "bre_Latn eng_Latn"),
        ("en-br", "eng_Latn bre_Latn"),
        ("es-419-en", "spa_Latn eng_Latn"),
        ("ca-valencia-en", "cat_Latn eng_Latn"),
        (" de - en ", "deu_Latn eng_Latn"),
    ],
)
def test_pair(code: str, expected: str) -> None:
    assert pair(code) == tuple(expected.split())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("", "is one code, not two"),
        ("de", "is one code, not two"),
        ("de_en", "is one code, not two"),
        ("pt-BR", "is one code, not two"),
        ("en-pt-br", "is 3 codes ('en', 'pt', 'br'), not two"),
        ("DE-EN-FR", "is 3 codes ('DE', 'EN', 'FR'), not two"),
        ("en-es-ar", "is 3 codes ('en', 'es', 'ar'), not two"),
        ("de-de", "names deu_Latn twice"),
        ("de-ger", "names deu_Latn twice"),
        ("zh-cmn_Hans", "names zho_Hans twice"),
        ("no-nb", "names nob_Latn twice"),
        ("de-xx", "unknown code 'xx'"),
        ("xx-de", "unknown code 'xx'"),
        ("de-", "unknown code ''"),
        ("-de", "unknown code ''"),
        ("de-jp", "unknown code 'jp'; did you mean ja (Japanese)?"),
        ("german-english", "unknown code 'german'; did you mean de (German)?"),
        ("en-germn", "unknown code 'germn'; did you mean de (German)?"),
        ("en-mul", "one language code per side"),
        ("sh-en", "use hr, sr or bs"),
    ],
)
def test_what_is_no_pair_is_refused_with_the_wrong_part(code: str, words: str) -> None:
    message = pair_refusal(code)
    assert words in message
    assert repr(code) in message


codes = st.sampled_from([*EMS_CODES, "sr-Latn", "zh-Hant", "yue", "yue-Hans", "ckb", "nn", "uz-Cyrl", "br", "pa-Arab"])


@settings(deadline=None, max_examples=200)
@given(codes, codes, st.booleans())
def test_a_pair_has_one_alphabetical_name_which_reads_back(left: str, right: str, canonical: bool) -> None:
    if resolve(left) == resolve(right):
        return
    named = pair_name(left, right, canonical=canonical)
    assert named == pair_name(right, left, canonical=canonical)
    assert set(pair(named)) == {resolve(left), resolve(right)}
    first = resolve(left) if canonical else short(left)
    second = resolve(right) if canonical else short(right)
    assert named == "-".join(sorted([first, second]))


def test_pair_name_in_both_forms() -> None:
    assert pair_name("en", "de") == "deu_Latn-eng_Latn"
    assert pair_name("eng_Latn", "ger", canonical=False) == "de-en"
    assert pair_name("zh-TW", "en", canonical=False) == "en-zh-Hant"
    with pytest.raises(LanguageError, match="unknown code 'xx'"):
        pair_name("en", "xx")


def test_names() -> None:
    named = {code: name(code) for code in ("deu", "zh-Hant", "sr-Latn", "ckb")}
    assert named == {
        "deu": "German",
        "zh-Hant": "Chinese (Traditional)",
        "sr-Latn": "Serbian (Latin)",
        "ckb": "Central Kurdish",
    }


def test_resolving_reads_no_table_of_names() -> None:
    program = (
        "import sys; from emsmine import languages as l; [l.short(l.resolve(c)) for c in l.EMS_CODES]; "
        "l.pair('de-en'); "
        "assert not [m for m in sys.modules if m.startswith(('language_data', 'marisa'))]; "
        "l.name('de'); assert 'language_data.name_data' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

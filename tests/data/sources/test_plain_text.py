"""The encoding of a text file: few Western letters are not taken for another script, and words of other scripts are."""

from __future__ import annotations

import codecs
import random
from pathlib import Path

import pytest

from unigrec.data.sources.plain_text import encoding_of

ROWS = 200


def catalogue(titles: list[str]) -> str:
    """A file of items: the titles first, then as many plain ones as are left."""
    filled = [*titles, *["plain lamp"] * (ROWS - len(titles))]
    return "item_id;title;price\n" + "".join(f"{row};{title};9.90\n" for row, title in enumerate(filled))


def text_as_found(file: Path) -> str:
    return file.read_bytes().decode(encoding_of(file))


@pytest.mark.parametrize("rows", [1, 20])
@pytest.mark.parametrize(
    "title",
    [
        *("glass ½ litre", "£ 5 lamp", "20 °C", "25 m²", "3 × 4 cm", "5µm", "± 5 %", "¼", "lamp – red"),
        *("Moët & Chandon", "voor één", "Ullgenser blå;Klær", "préférée", "ñoño", "L’Oréal", "“Été”", "Søren Ø"),
        *("QWERTZ ÄÖÜß", "ÆØÅ", "ÀÉÈÙ", "12,50\xa0€", "«\xa0été\xa0»"),
    ],
)
def test_a_few_western_letters_and_signs_stay_western(tmp_path, title, rows):
    file = tmp_path / "items.csv"
    file.write_bytes(catalogue([title] * rows).encode("cp1252"))
    assert encoding_of(file) == "cp1252"


@pytest.mark.parametrize("encoding", ["cp1250", "iso8859_2", "cp1254", "cp1252"])
def test_latin_words_of_many_letters_beyond_ascii_are_no_other_script(tmp_path, encoding):
    words = {
        "cp1254": "kırmızı ahşap masa, yılbaşı seti, çocuk ayakkabısı, çelik kupa, şık ığdır",
        "cp1252": "Türöffner größe, hopfällbar blå för småå, préférée, façade, São Paulo, maçã, æðardúnn",
    }.get(encoding, "dřevěný stůl, żółty ręcznik, łóżko, świąteczny źródło, őszi cipő, žlutý kůň")
    file = tmp_path / "items.csv"
    file.write_bytes(catalogue(words.split(", ")).encode(encoding))
    assert encoding_of(file) == "cp1252"


@pytest.mark.parametrize(
    ("encoding", "titles"),
    [
        ("cp932", ["クリスマス テーブル セット", "赤い ランプ", "USB 充電器", "Tシャツ 子供用", "収納ボックス"]),
        ("euc_jp", ["クリスマス テーブル セット", "赤い ランプ", "USB 充電器", "Tシャツ 子供用", "収納ボックス"]),
        ("big5", ["紅色 檯燈", "木製 桌子", "聖誕 禮盒", "USB 電視機", "不鏽鋼 馬克杯"]),
        ("gbk", ["红色 台灯", "木制 桌子", "圣诞 礼盒", "USB 电视机", "不锈钢 马克杯"]),
        ("euc_kr", ["빨간 램프", "나무 테이블", "크리스마스 세트", "USB 자전거", "스테인리스 머그컵"]),
        ("cp1251", ["красная лампа", "деревянный стол", "набор для дома", "USB кабель", "кружка из стали"]),
        ("koi8_r", ["красная лампа", "деревянный стол", "рождественский набор", "USB кабель", "кружка из стали"]),
        (
            "cp1253",
            ["κόκκινο φωτιστικό", "ξύλινο τραπέζι", "χριστουγεννιάτικο σετ", "USB καλώδιο", "κούπα από ατσάλι"],
        ),
        ("cp1255", ["מנורה אדומה", "שולחן עץ", "סט חג המולד", "כיסא כחול", "אופניים מתקפלים"]),
        ("cp1256", ["مصباح أحمر", "طاولة خشبية", "كرسي أزرق", "صندوق تخزين", "كوب من الفولاذ"]),
        ("cp874", ["โคมไฟ สีแดง", "โต๊ะไม้", "เก้าอี้ สีน้ำเงิน", "กล่อง เก็บของ", "USB แก้ว สแตนเลส"]),
    ],
)
@pytest.mark.parametrize("times", [1, 30])
def test_words_of_other_scripts_are_read_as_they_were_written(tmp_path, encoding, titles, times):
    file = tmp_path / "items.csv"
    file.write_bytes(catalogue(titles * times).encode(encoding))
    assert codecs.lookup(encoding_of(file)).name != "cp1252"
    assert text_as_found(file) == catalogue(titles * times)


def test_one_title_of_another_script_in_a_plain_catalogue_is_read(tmp_path):
    file = tmp_path / "items.csv"
    file.write_bytes(catalogue(["деревянный стол"]).encode("cp1251"))
    assert text_as_found(file) == catalogue(["деревянный стол"])


JAPANESE = [
    *("革靴", "時計", "財布", "帽子", "手袋", "眼鏡", "指輪", "枕", "机", "椅子"),
    *("本棚", "布団", "傘", "鞄", "茶碗"),
]
CHINESE = ["保溫杯", "雨傘", "皮鞋", "手錶", "帽子", "桌子", "椅子", "枕頭", "書包", "眼鏡"]


@pytest.mark.parametrize(
    ("encoding", "titles", "colours"), [("cp932", JAPANESE, [*"黒白赤青緑"]), ("big5", CHINESE, [*"黑白紅藍綠"])]
)
def test_words_of_one_or_two_letters_are_recognised(tmp_path, encoding, titles, colours):
    draw = random.Random(0)
    rows = [f"{row},{draw.choice(titles)},{draw.choice(colours)},{draw.randint(1, 99)}" for row in range(300)]
    (tmp_path / "items.csv").write_bytes("\n".join(["id,title,color,price", *rows]).encode(encoding))
    assert encoding_of(tmp_path / "items.csv") == encoding

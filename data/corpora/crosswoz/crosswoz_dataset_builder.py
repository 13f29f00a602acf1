"""crosswoz: one example a question and its answer."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.crosswoz import CORPUS
from gptjax.text.tokenizer import dialogue_text

SYSTEM = "auto_system_template_nlg.json"
BLANK = re.compile(r"\[\w+\+(\w+)\+([^\]\d+]+)(?:\+([^\]\d+]+))?(\d?)\]")  # [Inform+酒店+酒店设施+是2]
SEPARATORS = (
    (r",", "，"),
    (r"\]，\[", "]、["),
    (r"[，、；]+(?=[。！？]|$)", ""),
    (r"\.$", "。"),
)  # of lists, and at an end
PLACES = (
    "北京|国家|天安门|故宫|长城|清华|北大|大观园|恭王府|水立方|什刹海|天坛|颐和园|小汤山|动物园|奥林匹克|鸟巢|雍和宫|"
    "景山|王府井|全聚德|海底捞"
)
LEFT = re.compile(rf"[0-9A-Za-z\[\]#]|[店园馆][)）]|{PLACES}")  # what tells that a value was not blanked
LEFT_IN_LIST = re.compile(r"、(?!\[)|(?<!\])、|\][，；][^\[\]，。；！？]{2,10}，\[")
TAXI, FREE, FACILITIES = "出租", "免费", ("酒店", "酒店设施")

# What blanks are filled with: made up, but for kinds of hotels, dishes and services.
NAMES = {
    kind: names
    for kind, *names in map(
        str.split,
        """\
酒店 云松宾馆 月桥酒店 青禾客栈 望岚酒店 九溪宾馆 听雨酒店 锦川饭店 白鹭酒店 南枝客栈 远帆酒店 石榴宾馆
餐馆 老槐树饭馆 小满厨房 四味斋 鱼米人家 灶台记 春和楼 巷口面馆 山城食府 拾味小馆 荷塘酒家 麦香居
景点 云栖公园 青石古镇 望月湖 松风山 百鸟园 长河博物馆 枫林寺 海棠园 石桥老街 星空科技馆 竹海景区
街道 松林路 月桥街 东湖南路 白塔巷 望河大街 青年路 南平街 枫林路 石桥街 荷塘路
推荐菜 宫保鸡丁 鱼香肉丝 麻婆豆腐 糖醋里脊 酸菜鱼 红烧肉 烤鸭 炸酱面 水煮牛肉 清蒸鲈鱼 地三鲜
酒店设施 无线网络 健身房 接机 叫醒 洗衣 行李寄存 送餐 会议室 停车
酒店类型 经济型 舒适型 高档型 豪华型""".splitlines(),
    )
}


class Builder(CorpusBuilder, card=CORPUS):
    """A question and its answer as lines of `A:` and `B:`."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        """Each question, and each answer, once: the n-th that asks for some things, and the n-th that tells them."""
        answers = _utterances(path.with_name(SYSTEM), "Inform")
        for slots, questions in _utterances(path, "Request").items():
            for number, (question, answer) in enumerate(zip(questions, answers.get(slots, ()), strict=False)):
                chance = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4])
                turns = [_filled(question, chance, asks=True), _filled(answer, chance, asks=False)]
                yield f"{'*'.join(slots)}/{number}", {"text": dialogue_text(turns)}


def _utterances(path: Path, act: str) -> dict[tuple[str, ...], list[str]]:
    """What is asked for (`Request`), or is told and nothing else done (`Inform`) -> how that is said."""
    found: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for label, texts in json.loads(path.read_text(encoding="utf-8")).items():
        acts = [
            tuple(one.split("+")) for one in label.split("*")
        ]  # of Inform+酒店+酒店设施+是: act, domain, slot, value
        meant = [each for each in acts if each[0] == act]
        facilities = [each for each in meant if each[1:3] == FACILITIES]
        if not meant or (act == "Inform" and meant != acts) or any(TAXI in each for each in meant):
            continue  # what a taxi is like is a mark of theirs, not a blank
        if len(set(facilities)) > 1:
            continue  # one is there and another is not: blanks do not tell which was asked for first
        slots = sorted({"+".join(each[1:3]) for each in meant}) + ["+".join(FACILITIES)] * (len(facilities) - 1)
        for text in map(_plain, texts):
            if _whole(text, act):
                found[tuple(slots)][text] = None
    return {slots: list(texts) for slots, texts in found.items()}


def _plain(text: str) -> str:
    """Without the white space that Chinese has not, and lists in one manner."""
    text = "".join(text.split())
    for pattern, wanted in SEPARATORS:
        text = re.sub(pattern, wanted, text)
    return text


def _whole(text: str, act: str) -> bool:
    """Whether all values of a text are blanks that can be filled."""
    return not LEFT.search(BLANK.sub("", text)) and not (act == "Inform" and LEFT_IN_LIST.search(text))


def _filled(text: str, chance: int, *, asks: bool) -> str:
    """A text with values in its blanks; by the same chance, those of an answer agree with those of its question."""
    filled = BLANK.sub(lambda blank: _value(blank[1], blank[2], blank[3], blank[4], chance, asks=asks), text)
    return re.sub(r"(元|分|站|型|小时|服务)\1", r"\1", filled)  # where the text has the unit, too


def _value(domain: str, slot: str, value: str | None, number: str, chance: int, *, asks: bool) -> str:
    """What stands in a blank. Of a list, `number` gives one after the other; what is near a place is none of these."""

    def name(kind: str, further: int = 0) -> str:
        return NAMES[kind][(chance + int(number or 0) + further) % len(NAMES[kind])]

    if value == FREE:
        return value
    if slot in NAMES or slot == "名称":
        return name(domain if slot == "名称" else slot) + "服务" * (slot == "酒店设施")
    if slot.startswith("周边"):
        return name(slot.removeprefix("周边"), further=5)
    price, hours = 40 + chance % 17 * 10, 1 + chance % 4
    return {
        "评分": f"{4 + chance % 8 / 10:.1f}分" + "以上" * asks,
        "价格": f"{price + 200}到{price + 300}元" if asks else f"{price + 238}元",
        "人均消费": f"{price}到{price + 50}元" if asks else f"{price + 8}元",
        "门票": f"{price}元以下" if asks else f"{price}元",
        "游玩时间": f"{hours}到{hours + 1}小时",
        "营业时间": f"上午{7 + hours}点到晚上{6 + hours}点",
        "电话": f"010-0{chance % 10**7:07d}",  # nobody's: no number in Beijing begins with 0
        "地址": f"{name('街道')}{1 + chance % 200}号",
        "出发地": name("景点"),
        "目的地": name("酒店"),
        "出发地附近地铁站": f"{name('街道')}站",
        "目的地附近地铁站": f"{name('街道', further=3)}站",
    }[slot]

"""Words, numbers and ids for dialogues, and the split that holds some out for evaluation."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache

HELD_OUT_PERCENT = 12


@lru_cache(maxsize=65536)
def is_held_out(text: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Whether a word, tool name or phrasing belongs to evaluation; a fixed hash, the same for every seed."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100 < percent


def word_list(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = word_list("""
Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Maria Noah Olivia Paul Rosa Sam Tina Victor
Wendy Alice Bob Carol Daniel Ella Frank Gina Hugo Ivan Julia Karl Laura Mark Nina Oscar Peter Quinn Rachel
Simon Tom Una Vera Will Zoe Adam Amy Bruno Chloe Diego Eva Fred Helen Jane John Kevin Lily Lucy Max Mia Nick
Omar Rita Ruth Sara Sofia Steve Tony Yara Zack Arthur Bella Carlos Diana Eric Fiona George Hannah Jonas
Linda Martin Nora Pedro Robert Stella Thomas Amir Priya Kenji Yuki Chen Wei Aisha Fatima Ahmed Olga Boris
Lars Ingrid Pierre Marie Luca
""")
FIRST_NAMES_ZH = word_list("""
小明 小红 小华 小李 小王 小张 小芳 小军 小丽 小强 李明 王芳 张伟 刘洋 陈静 杨帆 赵雷 黄敏 周明 吴迪
徐丽 孙浩 朱琳 马超 胡平 林涛 郭云 何静 高山 罗兰 郑文 梁超 宋雅 唐宁 许青 韩梅 冯刚 邓林 曹阳 彭飞
曾志 萧云 田雨 董月 袁泉 潘文 于海 蒋勤 蔡波 余光 大卫 安娜 小雨 小雪 小龙 小虎 阿强 阿珍 老王 老李
""")
CITIES = word_list("""
Paris London Berlin Madrid Rome Vienna Oslo Dublin Lisbon Prague Warsaw Athens Cairo Tokyo Kyoto Osaka Seoul
Beijing Shanghai Delhi Mumbai Sydney Toronto Boston Chicago Denver Seattle Miami Dallas Austin Houston Lima
Bogota Havana Nairobi Lagos Tunis Istanbul Moscow Kiev Helsinki Stockholm Copenhagen Hamburg Munich Milan
Venice Naples Florence Lyon Nice Geneva Zurich Brussels Amsterdam Rotterdam Edinburgh Glasgow Manchester
Liverpool Oxford Cambridge York Singapore Bangkok Hanoi Manila Jakarta Dubai Doha Riyadh Tehran Baghdad
Montreal Vancouver Ottawa Quebec Phoenix Portland Detroit Atlanta
""")
CITIES_ZH = word_list("""
北京 上海 广州 深圳 杭州 南京 苏州 成都 重庆 武汉 西安 天津 青岛 大连 厦门 长沙 昆明 合肥 济南 郑州
沈阳 哈尔滨 长春 福州 南昌 贵阳 太原 兰州 海口 三亚 桂林 香港 澳门 台北 东京 大阪 首尔 巴黎 伦敦 柏林
罗马 纽约 洛杉矶 悉尼 莫斯科 新加坡 曼谷 珠海 无锡 宁波 温州 拉萨
""")
OBJECTS = word_list("""
apple banana orange lemon grape peach cherry bread butter cheese milk coffee tea sugar salt pepper rice soup
salad cake cookie pizza pasta egg fish chicken carrot potato tomato onion garlic table chair lamp window
door key book pen pencil paper phone clock camera radio guitar piano drum violin car bus train bike boat
plane ship bridge tower house garden tree flower grass river lake mountain forest island beach cloud rain
snow storm sun moon star cat dog horse cow sheep goat rabbit mouse tiger lion bear wolf fox eagle owl robot
rocket engine wheel hammer knife spoon fork plate cup bottle basket box bag coat hat shirt shoe glove ring
coin stone glass mirror candle blanket pillow ladder rope brush ticket map letter stamp flag ball kite doll
puzzle castle village market school museum library hospital station airport harbor desert valley
""")
OBJECTS_ZH = word_list("""
苹果 香蕉 橙子 柠檬 葡萄 桃子 面包 牛奶 咖啡 茶 糖 盐 米饭 汤 蛋糕 饼干 面条 鸡蛋 鱼 胡萝卜 土豆
番茄 洋葱 桌子 椅子 台灯 窗户 门 钥匙 书 钢笔 铅笔 纸 手机 时钟 相机 吉他 钢琴 汽车 火车 自行车 船
飞机 桥 塔 房子 花园 树 花 草 河 湖 山 森林 岛 海滩 云 雨 雪 太阳 月亮 星星 猫 狗 马 牛 羊 兔子
老鼠 老虎 狮子 熊 狼 狐狸 鹰 机器人 火箭 轮子 锤子 勺子 盘子 杯子 瓶子 篮子 盒子 包 帽子 衬衫 鞋
手套 戒指 石头 玻璃 镜子 蜡烛 毯子 枕头 梯子 绳子 刷子 票 地图 信 邮票 旗子 球 风筝 城堡 村庄 市场
学校 博物馆 图书馆 医院 车站 机场 沙漠
""")
COLORS = word_list("""
red blue green yellow black white purple orange pink brown gray silver gold
""")
COLORS_ZH = word_list("""
红色 蓝色 绿色 黄色 黑色 白色 紫色 橙色 粉色 棕色 灰色 银色 金色
""")
ADJECTIVES = word_list("""
small big old new warm cold quiet loud bright dark soft hard slow fast happy brave clever calm fresh simple
strong gentle tiny huge round long short heavy light clean
""")
HOBBIES = word_list("""
reading swimming hiking cooking painting dancing chess tennis football music fishing gardening running
cycling skiing
""")
HOBBIES_ZH = word_list("""
看书 游泳 爬山 做饭 画画 跳舞 下棋 打网球 踢足球 听音乐 钓鱼 种花 跑步 骑车 滑雪
""")
SYLLABLES = word_list("""
ba be bo da di do fa fi ga go ka ki ko la le lo ma mi mo na ne no pa pi po ra ri ro sa si so ta ti to va vi
vo za zi zo bar ben bor dan del dor fan fin gal gor kan kel kor lan lin lor man mel mir nar nel nor pan pel
rin ron san sel tan tel tor van vel vik zan zel zor
""")
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


# Words and characters only for copying exercises, so that many tokens learn to be copied.
MORE_WORDS = word_list("""
Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August
September October November December China France Germany Italy Spain Japan Korea India Brazil Canada Mexico
Russia England Poland Sweden Norway Denmark Finland Greece Turkey Egypt Kenya Australia America Europe
Africa Asia Smith Jones Brown Taylor Wilson Davis Miller Moore Clark Hall Young King Wright Green Baker
Adams Nelson Carter Mitchell Turner Parker Collins Edwards Stewart Morris Rogers Cook Morgan Bell Murphy
Cooper Richard James Michael William Joseph Charles Anthony Matthew Andrew Joshua Kenneth Brian Ronald Jason
Jeffrey Ryan Gary Jacob Justin Scott Brandon Benjamin Samuel Gregory Alexander Patrick Dennis Jerry Tyler
Jose Henry Douglas Nathan Kyle Walter Ethan Jeremy Keith Christian Roger Terry Sean Austin Mary Patricia
Jennifer Elizabeth Barbara Susan Jessica Karen Lisa Nancy Betty Sandra Margaret Ashley Kimberly Emily Donna
Michelle Dorothy Amanda Melissa Deborah Rebecca Sharon Cynthia Kathleen Angela Anna Brenda Pamela Nicole
Katherine Christine Samantha Janet Debra Carolyn Rachel Heather Virginia Catherine Judith Marta Xavier Luke
Sophie Charlotte time year people way day man woman child world life hand part place case week company
system program question work government number night point home water mother area money story fact month lot
right study word business issue side kind head house service friend father power hour game line end member
law car city community name president team minute idea body information back parent face others level office
person art war history party result change morning reason research girl guy moment air teacher force
education foot boy age policy music market sense nation plan college interest death experience effect class
control field development role effort rate heart drug show leader light voice wife police mind price report
decision son view relationship town road arm difference value building action season society tax director
position player record paper space ground form event official matter center couple site project activity
star table need court oil situation cost industry figure street image phone data picture practice piece land
product doctor wall patient worker news test movie north love support technology dinner lunch breakfast
flight hotel train weather summer winter spring autumn yellow hello please thanks yes no one two three four
five six seven eight nine ten hundred thousand read write run walk eat drink sleep talk listen see look make
take give buy sell open close start stop wait learn teach think know want like love help call ask answer
tell find keep bring send build break cut draw sing play win lose
""")
MORE_CHARACTERS = """
的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多
定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因
由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解
问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少
图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造百规热领七
海口东导器压志世金增争济阶油思术极交受联什认六共权收证改清己美再采转更单风切打白教速花带安场身车例真务具万每目
至达走积示议声报斗完类八离华名确才科张信马节话米整空元况今集温传土许步群广石记需段研界拉林律叫且究观越织装影算
低持音众书布复容儿须际商非验连断深难近矿千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精
值号率族维划选标写存候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该
铁价严龙飞梅兰雪芬杰娜婷欣怡涵梓轩宇浩然博瑞晨阳辰琪瑶颖璐莹萍刚勇毅俊峰磊洋艳莉霞玲桂英秀珍
"""


class Words:
    """Draws values from one side of the split: training, or held out for evaluation."""

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng, self.held_out = rng, held_out

    def pick(self, pool: Sequence[str]) -> str:
        side = split(tuple(pool))[self.held_out]
        return self.rng.choice(side or pool)

    def some(self, pool: Sequence[str], count: int) -> list[str]:
        side = split(tuple(pool))[self.held_out] or tuple(pool)
        return self.rng.sample(side, min(count, len(side)))

    def made_up(self, syllables: int | None = None) -> str:
        """A word that exists in no language, in lower case."""
        while True:
            word = "".join(self.rng.choice(SYLLABLES) for _ in range(syllables or self.rng.choice((2, 2, 3))))
            if is_held_out(word) == self.held_out:
                return word

    def any_word(self, chinese: bool = False) -> str:
        """Only for copying: any word of any list, from both sides of the split."""
        if chinese:
            if self.rng.random() < 0.6:
                characters = MORE_CHARACTERS.replace("\n", "")
                return "".join(self.rng.choice(characters) for _ in range(self.rng.choice((1, 2, 2, 3))))
            return self.rng.choice(self.rng.choice((FIRST_NAMES_ZH, CITIES_ZH, OBJECTS_ZH, COLORS_ZH, HOBBIES_ZH)))
        if self.rng.random() < 0.5:
            return self.rng.choice(MORE_WORDS)
        return self.rng.choice(self.rng.choice((FIRST_NAMES, CITIES, OBJECTS, COLORS, ADJECTIVES, HOBBIES)))

    def name(self, chinese: bool = False) -> str:
        draw = self.rng.random()
        if draw < 0.25 and not chinese:
            return self.made_up().capitalize()
        return self.pick(FIRST_NAMES_ZH if chinese and draw < 0.85 else FIRST_NAMES)

    def city(self, chinese: bool = False) -> str:
        if self.rng.random() < 0.15 and not chinese:
            return self.made_up().capitalize()
        return self.pick(CITIES_ZH if chinese else CITIES)

    def thing(self, chinese: bool = False) -> str:
        return self.pick(OBJECTS_ZH if chinese else OBJECTS)

    def identifier(self) -> str:
        """For example K4-8213, a71f, 90312, order-441."""
        rng = self.rng
        while True:
            form = rng.randrange(5)
            if form == 0:
                text = f"{rng.choice(LETTERS)}{rng.randrange(10)}-{rng.randrange(100, 10000)}"
            elif form == 1:
                text = f"{rng.choice(LETTERS)}{rng.choice(LETTERS)}{rng.randrange(10, 10000)}"
            elif form == 2:
                text = str(rng.randrange(100, 100000))
            elif form == 3:
                text = f"{rng.choice(SYLLABLES)}-{rng.randrange(10, 1000)}"
            else:
                text = "".join(rng.choice("0123456789abcdef") for _ in range(rng.choice((4, 6))))
            if is_held_out(text) == self.held_out:
                return text

    def phrase(self, chinese: bool = False) -> str:
        """Two to five unrelated words: a title, a note, a query."""
        if chinese:
            parts = [self.pick(COLORS_ZH) + "的" if self.rng.random() < 0.5 else "", self.thing(True)]
            if self.rng.random() < 0.5:
                parts += ["和", self.thing(True)]
            return "".join(parts)
        words = [self.pick(ADJECTIVES), self.thing()]
        if self.rng.random() < 0.5:
            words += ["and", self.thing()]
        return " ".join(words)

    def date(self) -> str:
        return f"{self.rng.randrange(2020, 2031)}-{self.rng.randrange(1, 13):02d}-{self.rng.randrange(1, 29):02d}"

    def time(self) -> str:
        return f"{self.rng.randrange(24):02d}:{self.rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50)):02d}"

    def number(self) -> int:
        return self.rng.randrange(10 ** self.rng.choice((1, 2, 2, 3, 4)))


@lru_cache(maxsize=256)
def split(pool: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(training words, held-out words) of a list."""
    return tuple(w for w in pool if not is_held_out(w)), tuple(w for w in pool if is_held_out(w))

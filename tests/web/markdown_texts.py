# ruff: noqa: E501
r"""Sixty texts as models write them, English and Chinese: emphasis, formulas, prices, code, tables, notes."""

TEXTS = [
    "**注意：**请先保存文件。\n\n然后**“重新启动”**程序，再看**（结果）**是否正确。",
    "他说**“好的。”**然后走了；她说*《红楼梦》*很好看。\n\n1. **第一步：**打开\n2. **第二步：**关闭",
    "这是**重点**，这也是__重点：__后面。~~删除的文字。~~保留的文字。",
    "全角与半角：**GPU**很快，**100%**以上，**C++**和**`code`**都行。",
    "表情😀**加粗**😀后面，**日本語。**テスト、**한국어!**는",
    "The energy is $E = mc^2$, and the mass is \\(m = E / c^2\\).",
    "The quadratic formula:\n\n$$x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}$$\n\nwhere $a \\neq 0$.",
    "Solve:\n\\[\n\\begin{aligned}\n2x + 3 &= 7 \\\\\n2x &= 4 \\\\\nx &= 2\n\\end{aligned}\n\\]\nDone.",
    "设 $f(x) = x^2$，则 $f'(x) = 2x$。因此\n\n$$\n\\int_0^1 f(x)\\,dx = \\frac{1}{3}\n$$\n\n证毕。",
    "速度公式：$v = \\frac{s}{t}$，其中$s$是路程，$t$是时间。\n\n\\[\\text{速度} = \\frac{\\text{路程}}{\\text{时间}}\\]",
    "It costs $5 and $10; the old price was $15.99 (or 20$ with tax). US$5, $5-$10, **$5**–**$10**.",
    "价格是$5，涨到$10，再到$20。人民币100元约合$14。",
    "Set `$HOME` and $PATH in the shell; `echo $a$b` prints both. Escaped: \\$5 and \\$6.",
    "1. First, compute $a_1$:\n\n   $$\n   a_1 = \\sum_{i=1}^{n} i\n   $$\n\n2. Then compute \\(a_2\\).\n   - nested $b$\n   - more",
    "- 条件 $x > 0$\n- 条件 $y < 0$\n  \\[ x - y > 0 \\]\n- 结论",
    "> **定理：**若 $p$ 为素数，则 $a^{p-1} \\equiv 1 \\pmod p$。\n>\n> $$ a^p \\equiv a $$\n\n证明略。",
    "The matrix\n\n$$\n\\begin{pmatrix}\n1 & 2 \\\\\n3 & 4\n\\end{pmatrix}\n$$\n\nhas determinant $-2$.",
    "\\begin{align}\na &= b + c \\\\\nd &= e\n\\end{align}\n\nis a system; \\begin{x} is not.",
    "A formula over a gap:\n\n\\[\n\na = b\n\n\\]\n\nand the end.",
    "Never closed:\n\n$$\nx = 1\n\ny = 2\n\nand this is the end.",
    "Not a formula: $$ alone, and\n$$ this line\n\nis a paragraph of its own. $$$ too.",
    "Steps:\n$$ a = b\n+ c $$\nthen text.\n\n- item\n$$ d $$\n- other",
    "Unknown $\\foo{x}$ and broken $\\frac{1$ are shown; $\\sqrt{2}$ is drawn.",
    "|Symbol|Meaning|\n|:-|:-:|\n|$\\alpha$|angle<br>in radians|\n|$x^2$|square, H<sub>2</sub>O|\n",
    "| 名称 | 价格 | 说明 |\n|---|--:|:-:|\n| **苹果：**红 | $5 | 甜<br>脆 |\n| 梨 | $6 | `a\\|b` |\n\n合计$11。",
    "text before\n|a|b|\n|-|-|\n|1|2|\ntext after\n\n|not a table|",
    "```python\ndef area(r):\n    # $pi r^2$ stays\n    return 3.14 * r ** 2\n```\n\nThe area is $\\pi r^2$.",
    "```latex\n\\[ x \\]\n$$y$$\n```\n\n\\[ x \\]\n",
    "````md\n```py\nx = 1\n```\n````\n\nand ~~~ not\n\n~~~\ntilde fence\n~~~",
    "```python\nprint('never closed')\nx = 2",
    "Use `a_b` and ``x `y` z``. Snake: file_name_here and __init__.\n\n    indented code $x$",
    "A claim[^1] and another[^2].\n\n[^1]: The *source*, p. 5.\n[^2]: See https://example.com/a_b.\n    continued\n\nText.",
    "脚注[^1]在这里，正则[^abc]不是。\n[^1]: **来源：**某书。\n\n[^note-a]: 另一个",
    "H~2~O, CO~2~, x^2^, 10^-3^, m^2^ s^-1^; ranges 5~10 and 20~30, ~5~ and ~~gone~~.",
    "水的化学式是H<sub>2</sub>O，面积单位是m<sup>2</sup>；按<kbd>Ctrl</kbd>+<kbd>C</kbd>。<br>换行<br/>再换行",
    "See [the docs][d] and [more].\n\nText in between.\n\n[d]: https://example.com 'Docs'\n[more]: https://example.org",
    "[before]: https://example.com\n\nA paragraph.\n\nUses [before] here and https://example.com/x, the end.",
    "见https://example.com/路径，然后看 https://example.com。还有<https://a.b>。",
    "# 标题：一\n\n## Title *two*\n\nSetext\n======\n\ntext\n***\n\nOther\n---",
    "- [ ] todo\n- [x] **done：**好\n\n* other\n\n  paragraph in it\n\n+ third",
    "2. two\n3. three\n\n10) ten\n\n1. a\n\n   b\n\n   ```\n   c\n   ```\n2. d",
    "Line one\nline two  \nline three\\\nline four\n\n\n\nfar below",
    "<thinking>not an element</thinking> <b>x</b> List<int> a<b and c>d &amp; &lt; &copy;",
    "Nested **bold *and italic* text**, ***both***, **a*b*c**, *a**b**c*; 2*3*4 = 24.",
    "一、**背景：**很长的一段文字，包含“引号”、（括号）和《书名》。\n二、**结论**：好。\n\n> 引用：**“重要。”**完",
    '$a$,$b$ and $c$; ($d$) [$e$] "$f$": $g$.\n\n$ x^2 $ with spaces, $ 5 and $ 6 without.',
    "\\(a\\)\\(b\\) and \\[c\\]\\[d\\]; \\[1\\] is a mark, \\(\\) is empty, \\\\(no\\\\).",
    "The limit $\\lim_{x \\to 0} \\frac{\\sin x}{x} = 1$ and **the sum $\\sum_i x_i$** in bold, *$y$* in italics.",
    "[a link with $x^2$](https://example.com) and ![image $y$](https://example.com/i.png) end.",
    "Cases:\n$$|x| = \\begin{cases} x & x \\ge 0 \\\\ -x & x < 0 \\end{cases}$$\nNext line.",
    "$$E = mc^2 \\tag{1}$$\n\n$$\\nabla \\cdot \\mathbf{E} = \\frac{\\rho}{\\varepsilon_0}$$",
    "RWKV: $S_t = S_{t-1}(\\operatorname{diag}(w_t) - \\hat\\kappa_t^\\top (a_t \\odot \\hat\\kappa_t)) + v_t^\\top k_t$.",
    "答案：**$x = 2$**。验证：$2 \\times 2 = 4$，正确！\n\n**所以，**结果是 $\\boxed{4}$。",
    "概率 $P(A \\mid B) = \\frac{P(B \\mid A)P(A)}{P(B)}$，期望 $\\mathbb{E}[X]$，范数 $\\|x\\|_2$。",
    "1. **Speed**: $v$\n2. **Price**: $5\n3. **Code**:\n   ```js\n   const a = `${b}`;\n   ```\n4. **数学：**\n   $$c$$\n",
    "| a |\n|---|\n| $x$ |\n\n$$\ny\n$$\n\n```\nz\n```\n\n- $w$\n",
    "C:\\Users\\new\\_test and \\\\server\\share; 50\\% of \\#1; a\\_b.",
    "Windows line ends:\r\n\r\n**粗体：**文字\r\n- a\r\n- b\r\n\r\n$$\r\nx\r\n$$\r\n",
    "---\n\n***bold italic：***后\n\n___\n\ntext ~ tilde ^ caret $ dollar | pipe",
    "最后：\n\n1. 设$n=3$\n2. 则\n\\[\nn^2 = 9\n\\]\n3. 完成。\n\n[^1]: 未被引用的脚注",
]

FORMULAS = r"""
E = mc^2
\frac{-b \pm \sqrt{b^2-4ac}}{2a}
\sum_{i=1}^{n} i = \frac{n(n+1)}{2}
\int_{-\infty}^{\infty} e^{-x^2}\,dx = \sqrt{\pi}
\lim_{x \to 0} \frac{\sin x}{x} = 1
\begin{aligned} a_1 &= b_2 + c \\ d &= e^{f} \end{aligned}
\begin{pmatrix} a & b \\ c & d \end{pmatrix}
\begin{bmatrix} 1 & 0 & \cdots & 0 \\ \vdots & \vdots & \ddots & \vdots \\ 0 & 0 & \cdots & 1 \end{bmatrix}
f(x) = \begin{cases} x^2 & \text{if } x \ge 0 \\ -x & \text{otherwise} \end{cases}
\mathbb{E}[X] = \int x\, p(x)\, \mathrm{d}x
P(A \mid B) = \frac{P(B \mid A) P(A)}{P(B)}
\nabla \cdot \mathbf{E} = \frac{\rho}{\varepsilon_0}
\oint_{\partial S} \mathbf{B} \cdot d\boldsymbol{\ell} = \mu_0 I_{\text{enc}}
i\hbar \frac{\partial}{\partial t} \Psi(\mathbf{r}, t) = \hat{H} \Psi(\mathbf{r}, t)
\left( \frac{a}{b} \right)^{n}
\left\{ x \in \mathbb{R} \;\middle|\; x^2 < 2 \right\}
\sqrt[3]{x + \sqrt{y}}
\binom{n}{k} = \frac{n!}{k!(n-k)!}
\prod_{p \text{ prime}} \frac{1}{1 - p^{-s}}
\overline{AB} \perp \overrightarrow{CD}
\underbrace{a + a + \cdots + a}_{n \text{ times}}
\overbrace{x_1 + \dots + x_n}^{n}
\operatorname{softmax}(z)_i = \frac{e^{z_i}}{\sum_{j} e^{z_j}}
\mathcal{L}(\theta) = -\sum_{t} \log p_\theta(x_t \mid x_{<t})
\hat{\beta} = (X^\top X)^{-1} X^\top y
\|x\|_2 = \sqrt{\sum_i |x_i|^2}
\boxed{x = 42}
\therefore \forall \epsilon > 0\ \exists \delta > 0
A \xrightarrow{f} B
a = b \tag{1}
\cancel{x} + y
\textbf{bold} + \textit{it}
\dfrac{1}{2} + \tfrac{1}{3}
\displaystyle\sum_{k=0}^\infty \frac{x^k}{k!}
\mathrm{kg}\cdot\mathrm{m}/\mathrm{s}^2
5\% \text{ of } \$100
\text{速度} = \frac{\text{路程}}{\text{时间}}
\alpha, \beta, \gamma, \Gamma, \Delta, \Omega
a \equiv b \pmod{m}
\gcd(a, b) = \gcd(b, a \bmod b)
\begin{array}{c|c} x & y \\ \hline 1 & 2 \end{array}
\begin{align} x &= 1 \\ y &= 2 \end{align}
\begin{equation} a = b \label{eq:a} \end{equation}
\begin{vmatrix} a & b \\ c & d \end{vmatrix}
\bar{x} \pm z \frac{s}{\sqrt{n}}
\vec{F} = m\vec{a}, \dot{x} = \ddot{y}
\widehat{ABC} + \widetilde{x}
x \mapsto x^2, \quad x \neq 0, \; x \approx 1
\color{red}{x} + \textcolor{blue}{y}
\stackrel{\text{def}}{=} \overset{!}{=}
\Bigl[ \bigl( x \bigr) \Bigr]
\iint_D f \, dA = \iiint_V g \, dV
\sum_{\substack{i<j \\ j<n}} a_{ij}
\begin{gathered} a = b \\ c = d \end{gathered}
\underset{x}{\operatorname{argmin}}\, f(x)
\not\in \notin \subseteq \cup \cap \emptyset
{n \choose k}
\frac{d}{dx}\left[\ln x\right]' = f''(x)
\begin{split} a &= b \\ &= c \end{split}
\left. \frac{dy}{dx} \right|_{x=0}
\mathfrak{g} \mathscr{F} \mathsf{T} \mathtt{x}
""".strip().split("\n")

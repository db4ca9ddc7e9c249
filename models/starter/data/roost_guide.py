"""How to use Roost, as questions and answers in the format of `intents`; only things that rarely change."""
# ruff: noqa: E501 (one alternative per line would hide the structure)

GUIDE = """
# what is roost | RWKV
u: What is Roost?|Tell me about Roost|What does Roost do?|Explain Roost|What is this program?|What is Roost for?
a: Roost is a web interface and server for RWKV language models. You chat with a model in your browser.
问: Roost是什么？|介绍一下Roost|Roost是做什么的？|这个程序是什么？|Roost有什么用？
答: Roost是RWKV语言模型的网页界面和服务器，你可以在浏览器里和模型聊天。
# load model | Models load 模型 加载
u: How do I load a model?|How can I load a model?|How to load another model?|How do I use a bigger model?|How do I change the model?|How do I switch models?|Where do I load a model?|I want to load a model|How do I open my own model?
a: Put the model file into the models folder, open the Models page and click Load.
问: 怎么加载模型？|如何加载模型？|怎样换一个模型？|怎么用更大的模型？|如何切换模型？|在哪里加载模型？|我想加载模型|怎么打开自己的模型？
答: 把模型文件放进models文件夹，打开“模型”页面，点击“加载”。
# where models | models folder 文件夹
u: Where do I put model files?|Where are the models stored?|Which folder is for models?|Where do models go?
a: Model files go into the models folder.
问: 模型文件放在哪里？|模型存在哪里？|哪个文件夹放模型？
答: 模型文件放在models文件夹里。
# formats | pth safetensors
u: Which model files can Roost read?|What file formats are supported?|Can Roost read pth files?|Which formats does Roost support?
a: Roost reads RWKV models as .pth, .safetensors and other common files.
问: Roost支持哪些文件？|支持什么模型格式？|能读取pth文件吗？|Roost支持什么格式？
答: Roost可以读取.pth、.safetensors等常见的RWKV模型文件。
# presets | preset 预设
u: What is a preset?|How do presets work?|How do I make a preset?|How do I save my settings?|What are presets for?|How do I create a preset?|Tell me about presets
a: A preset saves a model, its sampling settings and a state under one name. Create one on the Presets page.
问: 什么是预设？|预设怎么用？|怎么新建预设？|如何保存我的设置？|预设有什么用？|怎么创建预设？
答: 预设把模型、采样设置和状态保存在一个名字下，可以在“预设”页面创建。
# state | state 状态
u: What is a state?|What is a state file?|How do I use a state?|How do I load a state?|What are states for?|What does a state do?|Explain states
a: A state is the memory of an RWKV model. A state file gives the model a role or a style; choose it in the preset.
问: 什么是状态？|状态文件是什么？|怎么使用状态？|如何加载状态？|状态有什么用？|解释一下状态
答: 状态是RWKV模型的记忆。状态文件给模型一种角色或风格，在预设里选择它。
# tools | tool 工具
u: How do I use tools?|How do tools work?|How do I add a tool?|What is a tool?|Can you call functions?|How does function calling work?|How do I turn tools on?
a: Define a tool on the Tools page with a name, a description and parameters. Then turn it on in the chat and I can call it.
问: 怎么使用工具？|工具怎么用？|如何添加工具？|什么是工具？|你能调用函数吗？|函数调用怎么用？|怎么打开工具？
答: 在“工具”页面填写名称、描述和参数来定义工具，然后在聊天里打开它，我就能调用。
# lan | lan token 地址 令牌
u: How do I use Roost in my LAN?|How do I open Roost on my phone?|Can others use my Roost?|How do I share Roost in the network?|How do I connect from another computer?|Can I use Roost on my LAN?|How do I reach Roost from my tablet?
a: Start Roost with roost serve --lan. It prints an address and a token; open that address on the other device.
问: 怎么在局域网使用Roost？|怎么用手机打开Roost？|别人能用我的Roost吗？|如何在网络上共享Roost？|怎么从另一台电脑连接？|局域网怎么用？
答: 用roost serve --lan启动Roost，它会显示地址和令牌，在其他设备上打开这个地址就行。
# start | roost serve
u: How do I start Roost?|How do I run Roost?|How to start the server?|Which command starts Roost?|How do I launch Roost?
a: Run the command roost serve and open the address it prints.
问: 怎么启动Roost？|如何运行Roost？|怎么启动服务器？|用什么命令启动？
答: 运行命令roost serve，然后打开它显示的地址。
# api | OpenAI API
u: Does Roost have an API?|Can I use the OpenAI API?|How do I connect my program to Roost?|Is there an API?|How do I use the API?
a: Yes. Roost offers an OpenAI compatible API at /v1, so your programs can use it.
问: Roost有API吗？|能用OpenAI接口吗？|怎么把程序连到Roost？|有接口吗？|怎么用API？
答: 有。Roost在/v1提供兼容OpenAI的接口，你的程序可以直接使用。
# temperature | random 随机
u: What is temperature?|What does temperature do?|How do I make answers less random?|Explain temperature|Which temperature should I use?
a: Temperature sets how random the answer is. Use a low value for exact answers and a higher one for creative text.
问: 什么是温度？|温度有什么用？|怎么让回答不那么随机？|解释一下温度参数|温度设多少好？
答: 温度决定回答的随机程度。要准确就用低一点，要创意就用高一点。
# top p | top_p 概率 likely
u: What is top_p?|What does top p mean?|Explain top_p
a: With top_p only the most likely tokens are used, until their probabilities add up to that value.
问: 什么是top_p？|top_p是什么意思？|解释一下top_p
答: top_p只使用最可能的词元，直到它们的概率加起来达到这个值。
# penalties | repeat 重复
u: What is the presence penalty?|How do I stop repetition?|The model repeats itself|What does the frequency penalty do?|What are penalties?
a: Penalties make used words less likely. Raise the presence or frequency penalty when a model repeats itself.
问: 什么是存在惩罚？|怎么避免重复？|模型总是重复|频率惩罚有什么用？|惩罚参数是什么？
答: 惩罚会降低用过的词的概率。模型重复时，可以调高存在惩罚或频率惩罚。
# think | think 思考
u: What is thinking?|How do I turn thinking on?|What does think mode do?|Can you think first?|What is think mode?
a: In think mode a model writes its thoughts first and then the answer. Turn it on beside the message box.
问: 什么是思考模式？|怎么打开思考？|思考模式有什么用？|你能先思考吗？
答: 思考模式下，模型先写出想法，再给出回答。可以在输入框旁边打开它。
# history | saved 保存
u: Where are my chats?|Are my chats saved?|How do I find an old chat?|How do I delete a chat?|Is my history saved?
a: Your chats are saved on your own machine. You find them in the list at the side, where you can also delete them.
问: 我的聊天在哪里？|聊天会保存吗？|怎么找到以前的聊天？|怎么删除聊天？|历史记录会保存吗？
答: 聊天保存在你自己的电脑上，在旁边的列表里可以找到，也可以删除。
# private | own local 本地 自己
u: Is my data private?|Do you send my data to the internet?|Does Roost work offline?|Do I need the internet?|Is Roost safe?
a: Roost runs on your own machine and works without the internet. Your chats stay local.
问: 我的数据安全吗？|你会上传我的数据吗？|Roost能离线使用吗？|需要联网吗？
答: Roost在你自己的电脑上运行，不需要联网，聊天只保存在本地。
# convert | convert 转换
u: How do I convert a model?|Can Roost convert models?|How do I change a pth file to safetensors?|How to convert a model?
a: Use the Models page or the command roost convert.
问: 怎么转换模型？|Roost能转换模型吗？|怎么把pth转成safetensors？
答: 可以在“模型”页面转换，或者使用命令roost convert。
# gpu | GPU strategy 显卡 策略
u: Do I need a GPU?|Can I use my GPU?|What is a strategy?|How do I use the graphics card?|Does Roost work on a CPU?
a: A CPU is enough for small models. The strategy of a preset says whether the model runs on CPU or GPU.
问: 需要显卡吗？|能用显卡吗？|什么是策略？|怎么使用GPU？|只有CPU能用吗？
答: 小模型用CPU就够了。预设里的策略决定模型在CPU还是显卡上运行。
# memory | memory 内存
u: How much memory do I need?|How much RAM does a model need?|Is my computer good enough?|Which model fits my computer?
a: The Models page shows how much memory each model needs before you load it.
问: 需要多少内存？|模型要占多少内存？|我的电脑够用吗？|哪个模型适合我的电脑？
答: 加载之前，“模型”页面会显示每个模型需要多少内存。
# stop | Stop 停止
u: How do I stop an answer?|How do I stop you?|The answer is too long, how do I stop it?|How do I stop the generation?
a: Click Stop beside the message box. The text so far is kept.
问: 怎么停止回答？|怎么让你停下？|如何停止生成？
答: 点击输入框旁边的“停止”，已有的文字会保留。
# regenerate | Regenerate 重新生成
u: How do I get another answer?|How do I regenerate an answer?|Can you try again?|How do I repeat an answer?
a: Click Regenerate below the answer to get a new one.
问: 怎么换一个回答？|怎么重新生成？|你能再试一次吗？
答: 点击回答下面的“重新生成”就会得到新的回答。
# language of ui | language 语言
u: How do I change the language?|Can I use Roost in Chinese?|How do I switch to English?|Where do I change the language?
a: Choose English or Chinese in the language menu of the page.
问: 怎么切换语言？|能用中文界面吗？|怎么换成英文？|在哪里换语言？
答: 在页面的语言菜单里选择中文或英文。
# system prompt | system 系统
u: What is a system prompt?|How do I give you a role?|How do I set a system prompt?|What does the system prompt do?
a: A system prompt tells the model how to behave. You write it in the chat settings or in a preset.
问: 什么是系统提示词？|怎么给你一个角色？|怎么设置系统提示？|系统提示有什么用？
答: 系统提示告诉模型怎样表现，可以写在聊天设置或预设里。
# better model | bigger 更大
u: Where can I get a better model?|Which model should I use?|How do I get a bigger model?|Where can I download RWKV models?
a: Bigger RWKV-7 models are published by the RWKV project. Download one into the models folder and load it.
问: 哪里有更好的模型？|我该用哪个模型？|怎么得到更大的模型？|在哪里下载RWKV模型？
答: RWKV项目发布了更大的RWKV-7模型，下载到models文件夹后加载即可。
"""

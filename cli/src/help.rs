//! The help of every command in Chinese: English stands in `arguments`, where clap reads it.
//!
//! A test walks through all commands and arguments that are shown, so that none is forgotten.

use crate::language::Language;
use clap::Command;

/// (command path without `suanli`, text).
const ABOUT: &[(&str, &str)] = &[
    ("", "算粒：许多小计算机一起训练一个模型"),
    ("demo", "几分钟内，看本机上的一座城市和四个家庭训练一个模型"),
    ("city", "建立并运行一座城市"),
    ("city init", "建立新城市：它的密钥和空的记录"),
    ("city serve", "运行城市；会打印家庭加入用的入场券"),
    ("city ticket", "打印正在运行的城市的入场券"),
    ("city grant", "让一个节点以访客身份读取正在运行的城市的某些区域；会打印授权"),
    ("city revoke", "使此前给出的、针对某些区域的全部授权失效"),
    ("city stop", "停止正在运行的城市；下次 serve 从这里继续"),
    ("join", "把这台计算机借给一座城市"),
    ("train", "把一个训练任务交给城市"),
    ("jobs", "列出本机城市或家庭的任务"),
    ("watch", "持续查看本机城市或家庭的工作"),
    ("status", "显示本机城市或家庭的状态"),
    ("pause", "立即停止出借，直到 resume"),
    ("resume", "pause 之后继续出借"),
    ("share", "更改正在运行的家庭出借的处理器份额"),
    ("leave", "离开城市"),
    ("export", "把任务的参数写成 Hugging Face 格式的文件夹"),
    ("generate", "用检查点续写一段文字，或在对话中作答"),
    ("merge", "把适配器（LoRA）合并进检查点，写成新的检查点"),
    ("grant", "查看对区域的授权，或把其中一部分转授出去"),
    ("grant show", "显示授权允许谁做什么、到何时为止"),
    ("grant node", "打印授权应给予的节点；没有密钥时会生成"),
    ("grant narrow", "把授权的一部分转授给另一个节点"),
    ("log", "查看城市的轮次记录"),
    ("log verify", "离线核对城市的记录：哈希链、签名和每一轮的次序"),
    ("doctor", "检查这台机器：指令集、速度、内存、文件夹，以及计算结果是否逐位正确"),
    ("relay", "运行一个中继，供无法直接连接的成员使用；城市用 --via 指定它"),
    ("emulate-link", "在本机模拟的家庭链路后面运行一个命令"),
    ("completions", "打印命令行补全脚本"),
    ("help", "显示命令的帮助"),
    ("city help", "显示命令的帮助"),
    ("grant help", "显示命令的帮助"),
    ("log help", "显示命令的帮助"),
];

/// (command path, argument, text). A path of `*` means every command.
const ARGUMENTS: &[(&str, &str, &str)] = &[
    ("*", "json", "输出 JSON，供程序读取"),
    ("*", "lang", "消息的语言［默认：取自 LANG］"),
    ("*", "quiet", "只输出所要的内容"),
    ("*", "verbose", "输出更多；写两次：全部输出"),
    ("*", "config", "配置文件［默认：$XDG_CONFIG_HOME/suanli/config.toml］"),
    ("*", "help", "显示帮助"),
    ("*", "version", "显示版本"),
    ("*", "dir", "数据文件夹［默认：在 $XDG_DATA_HOME/suanli 之下］"),
    ("demo", "data", "用来学习的文字：文件或文件夹［默认：cargo 留在本机的 Rust 源码］"),
    ("demo", "minutes", "大约训练多少分钟［默认：4］"),
    ("demo", "rounds", "训练多少轮，代替分钟数"),
    ("demo", "families", "多少个家庭参加［默认：4］"),
    ("demo", "fresh", "丢弃文件夹里先前的演示，重新开始"),
    ("demo", "resume", "继续文件夹里先前的演示"),
    ("demo", "no_chaos", "途中不杀死家庭，也没有家庭加入"),
    ("demo", "dir", "演示存放一切的地方［默认：suanli-demo］"),
    ("demo", "seed", "模型和数据次序的随机种子［默认：1］"),
    ("city init", "name", "给人看的名字［默认：city］"),
    ("city serve", "listen", "监听的地址和端口［默认：127.0.0.1，端口同上次］"),
    ("city serve", "advertise", "写进入场券的地址，用于家庭从别的地址访问本机时"),
    ("city serve", "no_quic", "只提供 TCP，不在同一端口的 UDP 上提供 QUIC"),
    ("city serve", "relay", "同时在这个地址和端口运行中继，供无法直接连接的成员使用"),
    ("city serve", "via", "在别处运行的中继与成员会合，写法即 suanli relay 所打印"),
    ("city serve", "lan", "本地网络能否用组播 DNS 找到城市［默认：监听本机地址时不能］"),
    ("city serve", "upload", "上传速率上限，所有成员合计，例如 20mbit［默认：不限］"),
    (
        "city serve",
        "upload_at",
        "一天中某段时间的另一速率，例如 18:00-23:00=1mbit；0bit 表示不上传；可重复使用",
    ),
    ("city serve", "upload_per_day", "每天最多上传多少 MiB，所有成员合计［默认：不限］"),
    ("city ticket", "role", "持有者可以做什么"),
    ("city ticket", "expires", "有效多久：90s、30m、24h、7d"),
    ("city ticket", "uses", "多少个节点可以使用"),
    ("city grant", "to", "授权给哪个节点：64 位十六进制数"),
    ("city grant", "regions", "哪些区域：job/ID/ 指整个任务，job/ID/theta 指一个，/ 指全部"),
    ("city grant", "rights", "可以做什么：read、subscribe、revoke，用逗号分隔"),
    ("city grant", "expires", "有效多久：90s、30m、24h、7d"),
    ("city grant", "bytes", "总共多少字节：500M、10G［默认：不限］"),
    ("city grant", "rate", "每秒多少字节：500K、2M［默认：不限］"),
    ("city grant", "depth", "可以转授几次，每次都更窄"),
    ("city revoke", "regions", "哪些区域：job/ID/、job/ID/theta，/ 指全部"),
    ("grant show", "grant", "授权，或存放它的文件"),
    ("grant narrow", "grant", "授权，或存放它的文件"),
    ("grant narrow", "to", "这一部分给哪个节点：64 位十六进制数"),
    ("grant node", "key", "密钥文件［默认：本用户 Python 程序的密钥］"),
    ("grant narrow", "key", "授权所给予的密钥的文件［默认：本用户 Python 程序的密钥］"),
    ("grant narrow", "regions", "其中哪些区域［默认：全部］"),
    ("grant narrow", "rights", "其中哪些权利［默认：全部］"),
    ("grant narrow", "expires", "有效多久：90s、30m、24h、7d［默认：与原授权相同］"),
    ("grant narrow", "bytes", "总共多少字节：500M、10G［默认：与原授权相同］"),
    ("grant narrow", "rate", "每秒多少字节：500K、2M［默认：与原授权相同］"),
    ("grant narrow", "depth", "这一部分可以再转授几次［默认：比原授权少一次］"),
    ("join", "ticket", "入场券，或存放入场券的文件；回到同一座城市时不需要"),
    ("join", "name", "这个家庭给人看的名字"),
    ("join", "share", "出借的处理器时间，百分数［默认：100］"),
    ("join", "threads", "使用的线程数［默认：每个核心一个］"),
    ("join", "upload", "上传速率上限，例如 5mbit［默认：不限］"),
    (
        "join",
        "upload_at",
        "一天中某段时间的另一速率，例如 18:00-23:00=1mbit；0bit 表示不上传；可重复使用",
    ),
    ("join", "upload_per_day", "每天最多上传多少 MiB［默认：不限］"),
    ("join", "trainer", "用自己的程序训练；取走这一行的其余部分，例如：python train.py"),
    ("join", "link", "与城市的链路种类［默认：auto］"),
    ("doctor", "network", "改为检查网络：通往城市的每条途径、所选的链路、速率和障碍"),
    ("doctor", "ticket", "城市的入场券，或存放它的文件［默认：这个家庭加入的城市］"),
    ("relay", "listen", "监听的地址和端口"),
    ("relay", "host", "其他机器访问本机所用的名字或地址［默认：所监听的地址］"),
    ("relay", "key", "生成口令的密钥文件，没有就新建［默认：在 $XDG_DATA_HOME/suanli 之下］"),
    ("train", "job", "任务文件"),
    ("train", "city", "角色为 train 的入场券、存放它的文件，或本机城市的数据文件夹"),
    ("train", "plan", "只显示内存、字节和时间，什么也不启动"),
    ("train", "yes", "不再询问"),
    ("train", "name", "任务给人看的名字［默认：任务文件的名字］"),
    ("train", "prepared", "准备好的数据存放处［默认：$XDG_CACHE_HOME/suanli/prepared］"),
    ("train", "example", "打印一个任务文件的例子"),
    ("train", "tokens_per_s", "用于计划：一个副本每秒的词元数［默认：在本机测量］"),
    ("train", "replicas", "用于计划：预计多少个副本［默认：按任务］"),
    ("watch", "interval", "两次查看之间的毫秒数"),
    ("share", "percent", "处理器时间的份额，百分数"),
    ("export", "job", "任务：名字、编号或编号的开头［默认：唯一的那个］"),
    ("export", "out", "写到哪里；必须不存在或为空"),
    ("export", "adapters", "只写适配器（PEFT 格式），用于只训练适配器的任务；否则写合并后的模型"),
    ("generate", "checkpoint", "检查点所在的文件夹：导出的，或 Llama 家族的其他检查点"),
    (
        "generate",
        "prompt",
        "要续写的文字，或对话中用户所说的话；-：从标准输入读取。写满模型的上下文时，续写从后一半接着写，对话则结束",
    ),
    ("generate", "chat", "按模型自带的对话模板作答"),
    ("generate", "system", "在用户之前，系统所说的话"),
    ("generate", "stop", "遇到这段文字之前结束；可以写多次"),
    ("generate", "tokens", "最多添加多少个词元"),
    ("generate", "temperature", "0：总是取最可能的词元；1：按模型所说"),
    ("generate", "top_p", "在总概率达到此值的最可能的词元里选择"),
    ("generate", "top_k", "最多在这么多个最可能的词元里选择；0：全部"),
    ("generate", "adapter", "PEFT 格式的适配器文件夹，运行时合并"),
    ("generate", "bf16", "矩阵用 bfloat16 存放：内存减半，更快，末位数字不同"),
    ("merge", "checkpoint", "Hugging Face 格式的检查点文件夹"),
    ("merge", "adapter", "它的 PEFT 格式适配器文件夹"),
    ("merge", "out", "写到哪里；必须不存在或为空"),
    ("generate", "seed", "选择用的随机种子"),
    ("generate", "threads", "使用的线程数［默认：每个核心一个］"),
    ("log verify", "dir", "城市的数据文件夹，或它的副本"),
    ("log verify", "city", "城市的编号，用于密钥不在文件夹里时"),
    ("emulate-link", "preset", "链路的名字：fibre-100、fibre-1000、cable、adsl、mobile"),
    ("emulate-link", "rate", "每秒比特数，如 100mbit；两个方向，除非给出 --up"),
    ("emulate-link", "up", "从家庭发出的速率，如 30mbit"),
    ("emulate-link", "delay", "每个方向的延迟，如 15ms［默认：预设的，或 15ms］"),
    ("emulate-link", "jitter", "延迟之外每个包最多再加的时间，如 2ms"),
    ("emulate-link", "loss", "线路丢失的包，如 0.5%"),
    ("emulate-link", "queue", "每个队列的大小，如 1bdp 或 64kb［默认：预设的，或 1bdp］"),
    ("emulate-link", "reorder", "允许抖动改变包的次序"),
    ("emulate-link", "seed", "丢包和抖动的随机种子"),
    ("emulate-link", "far", "在另一端运行的 shell 命令；随主命令结束"),
    ("emulate-link", "command", "在家庭一端运行的命令；另一端的地址是 10.77.0.2"),
    ("completions", "shell", "哪种 shell"),
];

const TEMPLATE: &str = "{about-with-newline}\n用法：{usage}\n\n{all-args}{after-help}";
const AFTER: &str = "退出码：0 完成，1 程序自身的缺陷，2 用法，3 数据或任务文件，4 入场券或权限，5 网络，\
    6 本机（端口、磁盘、文件夹被占用），7 状态损坏，130 被中断。\n\
    设置的次序：命令行，然后 SUANLI_* 环境变量，然后配置文件。";

/// The command as it explains itself in a language.
pub(crate) fn in_language(command: Command, language: Language) -> Command {
    match language {
        Language::English => command,
        Language::Chinese => {
            let mut command = command;
            // Adds what clap adds by itself, so that it has words too.
            command.build();
            let command = command.long_about(None).after_help(AFTER);
            chinese(command, "")
        }
    }
}

fn chinese(command: Command, path: &str) -> Command {
    // `help join` says of `join` what `join` says of itself.
    let plain = path.replace("help ", "");
    let about = ABOUT.iter().find(|known| known.0 == plain).map(|known| known.1);
    let ids: Vec<String> = command.get_arguments().map(|a| a.get_id().to_string()).collect();
    let names: Vec<String> = command.get_subcommands().map(|s| s.get_name().to_owned()).collect();
    let mut command = command.help_template(TEMPLATE).subcommand_help_heading("命令");
    if let Some(about) = about {
        command = command.about(about);
    }
    for id in ids {
        let text = argument(path, &id);
        command = command.mut_arg(id, |argument| {
            let heading = if argument.is_positional() { "参数" } else { "选项" };
            let argument = argument.help_heading(heading);
            text.map_or(argument.clone(), |text| argument.help(text).long_help(None::<&str>))
        });
    }
    for name in names {
        let path = format!("{path} {name}");
        command = command.mut_subcommand(name, |sub| chinese(sub, path.trim_start()));
    }
    command
}

fn argument(path: &str, id: &str) -> Option<&'static str> {
    let of = |path: &str| ARGUMENTS.iter().find(|known| known.0 == path && known.1 == id);
    of(path).or_else(|| of("*")).map(|known| known.2)
}

/// The language of the help, which is written before the command line is understood.
pub(crate) fn language_of(
    words: impl Iterator<Item = String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Language {
    let named = |text: &str| match text {
        "zh" => Some(Language::Chinese),
        "en" => Some(Language::English),
        _ => None,
    };
    let (mut said, mut next_is_it) = (None, false);
    for word in words {
        if next_is_it {
            said = named(&word);
        } else if let Some(value) = word.strip_prefix("--lang=") {
            said = named(value);
        }
        next_is_it = word == "--lang";
    }
    said.or_else(|| variable("SUANLI_LANG").and_then(|value| named(&value)))
        .unwrap_or_else(|| Language::of_environment(variable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Arguments;
    use clap::CommandFactory as _;

    fn is_chinese(text: &str) -> bool {
        text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
    }

    fn check(command: &Command, path: &str) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(is_chinese(&about), "{path:?} has no Chinese text");
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(is_chinese(&help), "{path:?}: {} has no Chinese text", argument.get_id());
        }
        for sub in command.get_subcommands() {
            if !sub.is_hide_set() {
                check(sub, format!("{path} {}", sub.get_name()).trim_start());
            }
        }
    }

    #[test]
    fn every_command_and_argument_that_is_shown_explains_itself_in_chinese() {
        let command = in_language(Arguments::command(), Language::Chinese);
        check(&command, "");
    }

    #[test]
    fn no_text_is_for_something_that_does_not_exist() {
        fn known(command: &Command, path: &str, all: &mut Vec<(String, String)>) {
            all.push((path.to_owned(), String::new()));
            let ids = command.get_arguments().map(|a| (path.to_owned(), a.get_id().to_string()));
            all.extend(ids);
            for sub in command.get_subcommands() {
                known(sub, format!("{path} {}", sub.get_name()).trim_start(), all);
            }
        }
        let mut command = Arguments::command();
        command.build();
        let mut all = Vec::new();
        known(&command, "", &mut all);
        for (path, _) in ABOUT {
            assert!(all.contains(&((*path).to_owned(), String::new())), "{path}");
        }
        for (path, id, _) in ARGUMENTS.iter().filter(|known| known.0 != "*") {
            assert!(all.contains(&((*path).to_owned(), (*id).to_owned())), "{path} {id}");
        }
    }

    #[test]
    fn the_command_line_decides_then_the_environment() {
        let of = |line: &str, pairs: &'static [(&str, &str)]| {
            language_of(line.split(' ').map(str::to_owned), |name| {
                pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
            })
        };
        assert_eq!(of("join --help --lang zh", &[]), Language::Chinese);
        assert_eq!(of("--lang=en --help", &[("LANG", "zh_CN")]), Language::English);
        assert_eq!(of("--help", &[("SUANLI_LANG", "zh"), ("LANG", "C")]), Language::Chinese);
        assert_eq!(of("--help", &[("LANG", "zh_CN")]), Language::Chinese);
        assert_eq!(of("--help --lang", &[]), Language::English);
    }
}

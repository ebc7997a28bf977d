//! Every sentence that people read while things go well, in both languages, side by side.
//! (Errors are in English: they are searched for word by word.)

use crate::language::Language;

macro_rules! words {
    ($($name:ident($($argument:ident: $type:ty),*) { $en:literal $zh:literal })*) => {
        $(
            pub(crate) fn $name(language: Language, $($argument: $type),*) -> String {
                match language {
                    Language::English => format!($en),
                    Language::Chinese => format!($zh),
                }
            }
        )*
        #[cfg(test)]
        const PAIRS: &[(&str, &str, &str)] = &[$((stringify!($name), $en, $zh)),*];
    };
}

words! {
    city_founded(name: &str, id: &str, folder: &str) {
        "Founded city {name} ({id}) in {folder}."
        "已在 {folder} 建立城市 {name}（{id}）。"
    }
    city_start_with(command: &str) {
        "Run it with: {command}"
        "用此命令运行：{command}"
    }
    city_listens(id: &str, addresses: &str) {
        "City {id} listens on {addresses}. Ctrl-C stops it; nothing acknowledged is lost."
        "城市 {id} 正在监听 {addresses}。按 Ctrl-C 停止；已确认的内容不会丢失。"
    }
    city_only_here() {
        "It can be reached from this machine only; --listen opens it to others."
        "目前只能从本机访问；用 --listen 向其他机器开放。"
    }
    city_join_with(command: &str) {
        "Families join with:\n  {command}"
        "家庭用此命令加入：\n  {command}"
    }
    stopped() {
        "Stopped. What was acknowledged is on disk."
        "已停止。已确认的内容都在磁盘上。"
    }
    family_joined(name: &str, city: &str) {
        "{name} lends to city {city}. Ctrl-C stops it; the next `join` goes on."
        "{name} 正在为城市 {city} 出力。按 Ctrl-C 停止；下次 join 会继续。"
    }
    family_share(percent: u8, threads: &str) {
        "It uses at most {percent} % of {threads}."
        "最多使用 {threads} 的 {percent} %。"
    }
    threads_all() { "all cores" "全部核心" }
    threads_some(count: u32) { "{count} thread(s)" "{count} 个线程" }
    paused() {
        "Paused: this family uses no CPU until `resume`."
        "已暂停：在 resume 之前不占用处理器。"
    }
    resumed() { "Resumed." "已恢复。" }
    share_set(percent: u8) {
        "This family now lends {percent} % of its CPU time."
        "这个家庭现在出借 {percent} % 的处理器时间。"
    }
    left() {
        "Left the city. Its key stays in the folder; a new ticket lets it come back."
        "已离开城市。密钥仍在文件夹里；有新的入场券即可回来。"
    }
    stop_asked() { "Asked it to stop." "已请求停止。" }
    nothing_runs() {
        "Nothing runs on this machine's usual folders."
        "本机的默认文件夹上没有正在运行的节点。"
    }
    no_jobs(command: &str) {
        "No jobs yet. Hand one in with: {command}"
        "还没有任务。用此命令提交：{command}"
    }
    no_members() {
        "No members yet. `suanli city ticket` prints a ticket for one."
        "还没有成员。suanli city ticket 会打印一张入场券。"
    }
    exported(folder: &str, round: u64, tokens: &str) {
        "Wrote the parameters after {round} rounds and {tokens} tokens to {folder}."
        "已将第 {round} 轮之后（{tokens} 个词元）的参数写入 {folder}。"
    }
    head_city() { "city" "城市" }
    head_family() { "family" "家庭" }
    head_member() { "member" "成员" }
    head_state() { "state" "状态" }
    head_speed() { "tokens/s" "词元/秒" }
    head_tokens() { "tokens" "词元" }
    head_part() { "part" "占比" }
    head_contributions() { "contributions" "贡献" }
    head_share() { "share" "份额" }
    head_up() { "up" "上行" }
    head_down() { "down" "下行" }
    head_seen() { "last seen" "上次联络" }
    head_job() { "job" "任务" }
    head_round() { "round" "轮" }
    head_loss() { "held-out loss" "留出损失" }
    head_bytes() { "bytes" "字节" }
    head_fewer() { "fewer than data parallel" "比数据并行少" }
    state_waiting() { "waiting" "等待中" }
    state_running() { "running" "进行中" }
    state_paused() { "paused" "已暂停" }
    state_done() { "done" "已完成" }
    state_cancelled() { "cancelled" "已取消" }
    state_away() { "away" "离线" }
    state_idle() { "idle" "空闲" }
    state_working() { "working" "工作中" }
    state_connecting() { "connecting" "连接中" }
    state_fetching() { "fetching" "读取中" }
    state_training() { "training" "训练中" }
    state_handing_in() { "handing in" "上交中" }
    state_leaving() { "leaving" "离开中" }
    event_member_connected(name: &str) { "{name} is connected" "{name} 已连接" }
    event_member_lost(name: &str) { "{name} is gone" "{name} 已断开" }
    event_round(round: u64, contributions: u64, tokens: &str) {
        "round {round} committed: {contributions} contributions, {tokens} tokens so far"
        "第 {round} 轮已提交：{contributions} 份贡献，累计 {tokens} 个词元"
    }
    event_accepted(name: &str, round: u64, tokens: &str) {
        "{name} handed in {tokens} tokens for round {round}"
        "{name} 为第 {round} 轮上交了 {tokens} 个词元"
    }
    event_loss(round: u64, loss: f64) {
        "held-out loss after {round} rounds: {loss:.4}"
        "{round} 轮之后的留出损失：{loss:.4}"
    }
    event_job_over(job: &str) { "job {job} is over" "任务 {job} 已结束" }
    event_worker(reason: &str) {
        "the worker process ended ({reason}); another takes over"
        "工作进程已结束（{reason}）；已由新的接替"
    }
    event_missed(events: u64) { "missed {events} events" "漏看了 {events} 个事件" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_is_in_both_languages_with_the_same_arguments() {
        let arguments = |text: &str| {
            let mut names: Vec<_> = text
                .split('{')
                .skip(1)
                .filter_map(|part| part.split(['}', ':']).next())
                .map(str::to_owned)
                .collect();
            names.sort();
            names
        };
        for (name, en, zh) in PAIRS {
            assert!(zh.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)), "{name}: {zh}");
            assert!(!en.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)), "{name}: {en}");
            assert_eq!(arguments(en), arguments(zh), "{name}");
        }
    }
}

//! Every sentence that people read while things go well, in both languages, side by side.
//! (Of errors only the class is in both, in `exit`: the detail is searched for word by word.)

use crate::language::Language;
use suanli_store::data::Stage;

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
    generated(prompt: usize, tokens: usize, rate: f64) {
        "{prompt} tokens read, {tokens} made, {rate:.1} tokens/s."
        "读入 {prompt} 个词元，写出 {tokens} 个，每秒 {rate:.1} 个。"
    }
    link_up() { "from the home" "从家庭发出" }
    link_down() { "to the home" "发往家庭" }
    link_direction(name: &str, packets: u64, bytes: u64, queue: u64, loss: u64, most: u64) {
        "{name}: {packets} packets, {bytes} bytes; dropped by the queue {queue}, by the line {loss}; most in the queue {most} bytes"
        "{name}：{packets} 个包，{bytes} 字节；队列丢弃 {queue} 个，线路丢失 {loss} 个；队列最多 {most} 字节"
    }
    link_missed(packets: u64) {
        "{packets} packets were dropped for want of processor time: this machine is too busy for the link."
        "因处理器时间不足丢弃了 {packets} 个包：这台机器太忙，带不动这条链路。"
    }
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
    grants_revoked(regions: &str, epoch: u64) {
        "Grants to {regions} that were given so far are over (epoch {epoch})."
        "此前给出的、针对 {regions} 的授权已失效（世代 {epoch}）。"
    }
    grant_whose(owner: &str, holder: &str) {
        "Regions of {owner}, for node {holder}"
        "{owner} 的区域，授权给节点 {holder}"
    }
    grant_what(rights: &str, regions: &str) { "May {rights}: {regions}" "可以 {rights}：{regions}" }
    grant_bounds(bytes: &str, rate: &str, time: &str) {
        "Bytes in all: {bytes}; a second: {rate}; {time}"
        "字节总数：{bytes}；每秒：{rate}；{time}"
    }
    grant_no_bound() { "no bound" "不限" }
    grant_over() { "over" "已过期" }
    grant_left(time: &str) { "{time} left" "还剩 {time}" }
    grant_depth(depth: u8, links: usize) {
        "May be handed on {depth} times; {links} links, each signed and narrower than the one before"
        "还可转授 {depth} 次；共 {links} 环，环环签名，一环窄于一环"
    }
    grant_where(ways: &str) { "Held at {ways}" "持有者的地址：{ways}" }
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
    upload_today(used: &str, limit: &str) {
        "{used} of {limit} up today"
        "今日已上传 {used}／{limit}"
    }
    upload_rate(rate: &str) {
        "at most {rate} up now"
        "此时段上传最多 {rate}"
    }
    upload_held() {
        "downloads wait: the limits of upload hold them back"
        "下载需等待：已到上传限额"
    }
    city_unreachable(address: &str, why: &str) {
        "The city cannot be reached at {address}: {why}. Trying on; Ctrl-C ends it."
        "连接不到城市（{address}）：{why}。会继续尝试；按 Ctrl-C 结束。"
    }
    city_lost(city: &str) {
        "The connection to city {city} is gone. Trying on."
        "与城市 {city} 的连接已断开，正在重试。"
    }
    city_again(city: &str) {
        "Connected to city {city}."
        "已连接到城市 {city}。"
    }
    doctor_kernel(kernel: &str, kernels: &str, threads: usize) {
        "Instructions: {kernel} (this CPU has {kernels}); {threads} threads."
        "指令集：{kernel}（处理器支持 {kernels}）；{threads} 个线程。"
    }
    doctor_same_bits(class: &str) {
        "Bits: the same with all of them, on one thread and on all ({class})."
        "逐位核对：各指令集、单线程与全部线程的结果完全相同（{class}）。"
    }
    doctor_other_bits() {
        "Bits: NOT the same with all of them. This machine must not train."
        "逐位核对：结果不一致。这台机器不能用于训练。"
    }
    doctor_speed(gflop: &str, tokens: &str) {
        "Speed: {gflop} GFLOP/s in a product; the demo's model trains at {tokens} tokens/s."
        "速度：矩阵乘 {gflop} GFLOP/s；演示模型每秒训练 {tokens} 个词元。"
    }
    doctor_memory(available: &str) {
        "Memory: {available} available."
        "内存：可用 {available}。"
    }
    doctor_folder(purpose: &str, path: &str) {
        "Folder ({purpose}): {path}"
        "文件夹（{purpose}）：{path}"
    }
    doctor_folder_closed(purpose: &str, path: &str) {
        "Folder ({purpose}): {path} CANNOT BE WRITTEN TO"
        "文件夹（{purpose}）：{path} 无法写入"
    }
    yes() { "yes" "是" }
    no() { "no" "否" }
    network_addresses(addresses: &str) {
        "Addresses of this machine: {addresses}"
        "本机地址：{addresses}"
    }
    network_sockets(udp: &str, multicast: &str, congestion: &str, bbr: &str) {
        "UDP: {udp}; multicast: {multicast}; TCP uses {congestion}, may use BBR: {bbr}."
        "UDP：{udp}；组播：{multicast}；TCP 使用 {congestion}，可用 BBR：{bbr}。"
    }
    network_city(city: &str) {
        "Ways to city {city}, each tried by itself:"
        "通往城市 {city} 的途径，逐一尝试："
    }
    network_way(way: &str, ms: &str) {
        "  {way}: answers, key proven after {ms} ms"
        "  {way}：可达，{ms} 毫秒后密钥得到验证"
    }
    network_no_way(way: &str, why: &str) {
        "  {way}: no: {why}"
        "  {way}：不通：{why}"
    }
    network_measured(rtt: &str, down: &str, up: &str) {
        "Measured: {rtt} ms there and back; {down} from the city, {up} to it."
        "实测：往返 {rtt} 毫秒；从城市接收 {down}，向城市发送 {up}。"
    }
    network_clear() { "Nothing is in the way." "没有发现障碍。" }
    link_chosen(kind: &str, remote: &str, ms: u64, why: &str) {
        "Link: {kind} to {remote}, made in {ms} ms: {why}."
        "链路：{kind}，对端 {remote}，{ms} 毫秒建立：{why}。"
    }
    why_asked() { "this kind was asked for" "按要求使用这一种" }
    why_only() { "the ticket names no other kind" "入场券没有写别的种类" }
    why_near() {
        "the city is on this machine or network, where TCP costs least"
        "城市就在本机或本地网络，TCP 开销最小"
    }
    why_tcp_has_bbr() {
        "TCP keeps its rate under loss here (BBR), at half the CPU of QUIC"
        "这里的 TCP 丢包时也能保持速率（BBR），处理器开销是 QUIC 的一半"
    }
    why_tcp_has_no_bbr() {
        "TCP slows down with every lost packet here; QUIC brings its own BBR"
        "这里的 TCP 每次丢包都会变慢；QUIC 自带 BBR"
    }
    why_other_failed() { "the first choice did not answer" "首选的种类没有应答" }
    why_other_slow() { "the first choice was slower to answer" "首选的种类应答更慢" }
    why_found_nearby() {
        "no address answered, and the city was found on this network by its key"
        "地址都没有应答，在本地网络按密钥找到了城市"
    }
    finding_no_city() {
        "Only this machine was looked at: name a ticket to try the way to a city."
        "只检查了本机：给出入场券即可尝试通往城市的途径。"
    }
    finding_no_network() {
        "This machine has no address of a network: is it connected?"
        "本机没有网络地址：是否已联网？"
    }
    finding_no_udp() {
        "The system gives no UDP sockets: QUIC, relays and finding a city nearby cannot work."
        "系统不允许使用 UDP：QUIC、中继和就近查找都无法工作。"
    }
    finding_nothing_answered() {
        "Nothing answered: is the city running, and is this machine connected? Ask its operator for a new ticket if its address has changed."
        "没有任何应答：城市是否在运行，本机是否已联网？若城市地址已变，请向运营者索取新的入场券。"
    }
    finding_wrong_key(way: &str) {
        "Somebody else's key answers at {way}: another city runs there, or somebody stands in between. Nothing was told to it."
        "{way} 处应答的是别人的密钥：那里运行着另一座城市，或有人居中。没有向它透露任何内容。"
    }
    finding_udp_blocked() {
        "UDP does not get through (TCP does): a firewall drops it, here or there. Allow the city's port for UDP, or go on by TCP."
        "UDP 不通（TCP 可通）：这里或那里的防火墙将其丢弃。请放行城市端口的 UDP，或继续使用 TCP。"
    }
    finding_tcp_blocked() {
        "TCP does not get through (QUIC does). Nothing needs to be done while QUIC is there."
        "TCP 不通（QUIC 可通）。只要 QUIC 可用就无需处理。"
    }
    finding_only_its_machine() {
        "The ticket names only addresses of the city's own machine: its operator must let it --listen to others."
        "入场券只写了城市本机的地址：运营者需要用 --listen 向其他机器开放。"
    }
    finding_only_relay() {
        "Everything goes by way of a relay: it works, as fast as the relay's line. A port opened for the city would be faster."
        "一切都经由中继：可用，速度取决于中继的线路。为城市开放一个端口会更快。"
    }
    finding_tcp_without_bbr() {
        "TCP may not use BBR on this machine and slows down with every lost packet; QUIC does not. An administrator can allow it: sysctl net.ipv4.tcp_allowed_congestion_control='reno cubic bbr'."
        "本机的 TCP 不能使用 BBR，每次丢包都会变慢；QUIC 不会。管理员可放行：sysctl net.ipv4.tcp_allowed_congestion_control='reno cubic bbr'。"
    }
    finding_not_a_member() {
        "The rate is measured for members only: join first."
        "只为成员测量速率：请先加入。"
    }
    finding_refused(why: &str) {
        "The city refused to be measured: {why}"
        "城市拒绝测量：{why}"
    }
    finding_broke(why: &str) {
        "The link ended while it was measured: {why}"
        "测量时链路中断：{why}"
    }
    relay_runs(listen: &str) {
        "Relay listens on {listen}. It passes what is encrypted from member to member, and reads none of it. Ctrl-C stops it."
        "中继正在监听 {listen}。它只转发成员之间加密的内容，无法读取。按 Ctrl-C 停止。"
    }
    relay_named_by(way: &str) {
        "A city names it with (the part after # is a secret of its members):\n  suanli city serve --via '{way}'"
        "城市用此命令使用它（# 之后的部分是成员的秘密）：\n  suanli city serve --via '{way}'"
    }
    stopped_plain() { "Stopped." "已停止。" }
    threads_all() { "all cores" "全部核心" }
    threads_one() { "one core" "一个核心" }
    threads_some(count: u32) { "{count} cores" "{count} 个核心" }
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
    merged(count: &str, targets: &str, folder: &str) {
        "Merged {count} parameters of adapters on {targets}; wrote {folder}."
        "已合并 {targets} 上的适配器（{count} 个参数），写入 {folder}。"
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
    demo_fresh_hint(command: &str) {
        "To begin anew: {command}"
        "重新开始：{command}"
    }
    demo_ask_resume(folder: &str) {
        "{folder} holds an unfinished demo. Go on with it? [Y/n] (n begins anew and removes it) "
        "{folder} 中有一个未完成的演示。继续吗？[Y/n]（n 会删除它并重新开始）"
    }
    demo_resumes(folder: &str) {
        "Going on with the demo in {folder}."
        "继续 {folder} 中的演示。"
    }
    demo_keeps_its_job() {
        "Its job stays as it was: text, length, seed and families of the first start count."
        "任务保持不变：以首次启动时的文本、长度、种子和家庭数为准。"
    }
    demo_finished_before(folder: &str) {
        "The demo in {folder} is finished; its report is in report.json and loss.svg there."
        "{folder} 中的演示已经完成；报告在其中的 report.json 和 loss.svg。"
    }
    demo_begins(folder: &str) {
        "A city and its families on this machine, each a process of its own, all in {folder}."
        "本机上的一座城市和几个家庭，各是一个进程，全部放在 {folder}。"
    }
    demo_sample(bytes: &str, files: usize) {
        "It learns from {bytes} of Rust: {files} files that cargo left here when it built this program."
        "学习内容：{bytes} 的 Rust 源码，即 cargo 编译本程序时留在本机的 {files} 个文件。"
    }
    demo_data(path: &str) { "It learns from {path}." "学习内容：{path}。" }
    demo_measured(speed: &str, rounds: u64, minutes: f64) {
        "One core here makes {speed} tokens/s: {rounds} rounds for about {minutes:.1} minutes."
        "本机一个核心每秒 {speed} 个词元：{rounds} 轮，约 {minutes:.1} 分钟。"
    }
    demo_rounds(rounds: u64) { "{rounds} rounds, as asked." "按要求训练 {rounds} 轮。" }
    demo_job_in(name: &str, parameters: &str) {
        "The city took in job {name}: a decoder of {parameters} parameters."
        "城市已接受任务 {name}：一个有 {parameters} 个参数的解码器。"
    }
    demo_family_up(name: &str, share: u8, pid: u32) {
        "{name} is here, with {share} % of a core (process {pid})."
        "{name} 已加入，使用一个核心的 {share} %（进程 {pid}）。"
    }
    demo_killed(name: &str, round: u64) {
        "In round {round}, {name} was killed with signal 9. The others go on."
        "第 {round} 轮，{name} 被信号 9 杀死。其他家庭继续。"
    }
    demo_back(name: &str) {
        "{name} is back and goes on from what is on its disk."
        "{name} 回来了，从自己磁盘上的内容继续。"
    }
    demo_joined(name: &str) {
        "{name} joined in mid-run."
        "{name} 中途加入。"
    }
    demo_died(name: &str, why: &str) {
        "{name} ended by itself ({why}); starting it again."
        "{name} 自行结束（{why}）；重新启动。"
    }
    demo_overtime() {
        "Time is up before the last round: ending with what is committed."
        "最后一轮之前时间已到：以已提交的内容结束。"
    }
    demo_wire(ours: &str, theirs: &str, times: f64) {
        "{ours} on the wire, {times:.0}x fewer than data parallel ({theirs})"
        "网络 {ours}，比数据并行（{theirs}）少 {times:.0} 倍"
    }
    demo_wire_yet(ours: &str) { "{ours} on the wire" "网络 {ours}" }
    contributions(count: u64) { "{count} contributions" "{count} 份贡献" }
    demo_stopping() { "Stopping all nodes..." "正在停止所有节点……" }
    demo_interrupted(command: &str) {
        "Stopped; nothing committed is lost. To go on: {command}"
        "已停止；已提交的内容不会丢失。继续：{command}"
    }
    demo_figures(rounds: u64, tokens: &str, span: &str) {
        "{rounds} rounds, {tokens} tokens, {span} of training."
        "{rounds} 轮，{tokens} 个词元，训练 {span}。"
    }
    demo_losses(before: f64, after: f64) {
        "Held-out loss: {before:.4} before, {after:.4} after (nats a token)."
        "留出损失：之前 {before:.4}，之后 {after:.4}（奈特每词元）。"
    }
    demo_bytes(ours: &str, theirs: &str, times: f64) {
        "Bytes on the wire: {ours}; data parallel would have sent {theirs}, {times:.0} times as many."
        "网络字节：{ours}；数据并行需要 {theirs}，是它的 {times:.0} 倍。"
    }
    demo_bytes_aside(first: &str, shards: &str) {
        "Not in that: first downloads {first}, training data {shards}."
        "未计入：首次下载 {first}，训练数据 {shards}。"
    }
    demo_text_before() {
        "Before training, the model continues a text so:"
        "训练之前，模型这样续写："
    }
    demo_text_after() { "After training:" "训练之后：" }
    demo_files(checkpoint: &str, chart: &str) {
        "Checkpoint (Hugging Face layout): {checkpoint}\nLoss curve: {chart}"
        "检查点（Hugging Face 格式）：{checkpoint}\n损失曲线：{chart}"
    }
    demo_next() { "To try next:" "接下来可以试试：" }
    demo_chart(parameters: &str) {
        "Held-out loss of a decoder of {parameters} parameters"
        "一个有 {parameters} 个参数的解码器的留出损失"
    }
    demo_chart_x() { "committed tokens" "已提交词元" }
    demo_chart_y() { "held-out loss, nats a token" "留出损失（奈特每词元）" }
    mark_killed(family: &str) { "{family} killed" "{family} 被杀死" }
    mark_back(family: &str) { "{family} back" "{family} 回来" }
    mark_joined(family: &str) { "{family} joined" "{family} 加入" }
    plan_model() { "model" "模型" }
    plan_parameters(count: &str) { "{count} parameters" "{count} 个参数" }
    plan_work() { "work" "工作量" }
    plan_steps(rounds: u64, replicas: u64, steps: u64, tokens: &str) {
        "{rounds} rounds of {replicas} replicas: {steps} steps each, {tokens} tokens in all"
        "{rounds} 轮，{replicas} 个副本：每个 {steps} 步，共 {tokens} 个词元"
    }
    plan_memory() { "memory" "内存" }
    plan_a_replica(bytes: &str) { "{bytes} a replica" "每个副本 {bytes}" }
    plan_round() { "a round" "每轮" }
    plan_up_down(up: &str, down: &str, data: &str) {
        "{up} up, {down} down (of it training data: {data}), a replica"
        "每个副本上行 {up}，下行 {down}（其中训练数据 {data}）"
    }
    plan_run() { "the run" "全程" }
    plan_whole(up: &str, down: &str, first: &str, times: f64) {
        "{up} up, {down} down a replica ({first} to begin with); updates: {times:.0}x fewer bytes than data parallel"
        "每个副本上行 {up}，下行 {down}（开始时 {first}）；更新比数据并行少 {times:.0} 倍字节"
    }
    plan_at_most(bytes: &str) { "at most {bytes}" "至多 {bytes}" }
    plan_time() { "time" "时间" }
    plan_spans(compute: &str, speed: &str, transfer: &str) {
        "{compute} of computing ({speed}), {transfer} of transfers at 30/200 Mbit/s"
        "计算 {compute}（{speed}），传输 {transfer}（按 30/200 Mbit/s）"
    }
    plan_measured(speed: &str) {
        "{speed} tokens/s a replica, measured here"
        "每个副本每秒 {speed} 个词元，在本机测得"
    }
    plan_stated(speed: &str) {
        "{speed} tokens/s a replica, as stated"
        "每个副本每秒 {speed} 个词元，按所给数值"
    }
    plan_disk() { "disk" "磁盘" }
    plan_disks(replica: &str, city: &str) {
        "{replica} a replica, {city} at the city, and the data"
        "每个副本 {replica}，城市 {city}，另加数据"
    }
    train_prepared(bytes: &str, samples: &str, shards: usize) {
        "Prepared {bytes} of training data: {samples} samples in {shards} shards."
        "已准备 {bytes} 训练数据：{samples} 个样本，{shards} 个分片。"
    }
    train_sending() { "sending to the city" "正在发送到城市" }
    stage_surveying() { "reading" "读取" }
    stage_tokenizer() { "training the tokenizer" "训练分词器" }
    stage_tokenizing() { "making tokens" "生成词元" }
    stage_writing() { "writing shards" "写入分片" }
    train_readers() {
        "Members of the city will read this data while they train. Only hand in what they may see."
        "训练时，城市的成员会读取这些数据。请只提交允许他们看到的内容。"
    }
    train_ask() { "Hand the job in? [y/N] " "提交任务吗？[y/N] " }
    train_not_asked() {
        "Nothing was handed in."
        "没有提交任何内容。"
    }
    train_submitted(name: &str, id: &str) {
        "The city took in job {name} ({id})."
        "城市已接受任务 {name}（{id}）。"
    }
    train_watch_with(command: &str) { "Watch it with: {command}" "用此命令观看：{command}" }
    log_torn(bytes: u64) {
        "{bytes} bytes of an interrupted write at its end; the next start cuts them."
        "末尾有一次中断写入留下的 {bytes} 个字节；下次启动时会截去。"
    }
    log_good(folder: &str, entries: u64, jobs: usize, rounds: u64) {
        "{folder}: {entries} entries, {jobs} jobs, {rounds} committed rounds; chain and signatures hold."
        "{folder}：{entries} 条记录，{jobs} 个任务，{rounds} 个已提交的轮；链和签名都成立。"
    }
}

/// What a preparation is doing.
pub(crate) fn stage(language: Language, stage: Stage) -> String {
    match stage {
        Stage::Surveying => stage_surveying(language),
        Stage::TrainingTokenizer => stage_tokenizer(language),
        Stage::Tokenizing => stage_tokenizing(language),
        Stage::Writing => stage_writing(language),
        _ => String::new(),
    }
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
